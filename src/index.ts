import { openCpuBackend } from './backends/cpu/index.js';
import { ReferenceBackend } from './backends/reference/index.js';
import type { Backend } from './core/backend.js';
import { openBackend as openAny, registerBackend } from './core/device.js';

registerBackend('cpu', () => openCpuBackend());
registerBackend('reference', async () => new ReferenceBackend());

let warned = false;

/** A warning of the process (`process.on('warning')` hears it), once. */
function warnOnce(message: string): void {
  if (!warned) process.emitWarning(message, { type: 'LowrankWarning', code: 'LOWRANK_SLOW_BACKEND' });
  warned = true;
}

/**
 * Opens a backend: the named one, or else `cpu`, or where that is not installed `reference`, which is many times slower: `onFallback` then hears
 * in one line what is missing and what mends it.
 */
export function openBackend(name?: string, onFallback: (message: string) => void = warnOnce): Promise<Backend> {
  return openAny(name, onFallback);
}

export { type CpuOptions, openCpuBackend } from './backends/cpu/index.js';
export * from './browser.js';
export { localFolder } from './io/node/folder.js';
export { openFile } from './io/node.js';
export { openModel } from './runs/node.js';
