import { openCpuBackend } from './backends/cpu/index.js';
import { ReferenceBackend } from './backends/reference/index.js';
import { WebGpuBackend } from './backends/webgpu/index.js';
import type { Backend } from './core/backend.js';
import { openBackend as openAny, registerBackend } from './core/device.js';
import { openDawn } from './io/node/dawn.js';
import type { RunResult } from './runs/events.js';
import { nodeHost } from './runs/node.js';
import * as previews from './runs/preview.js';
import type { RecipeInput } from './runs/recipe.js';
import * as runs from './runs/run.js';

registerBackend('cpu', () => openCpuBackend());
registerBackend('reference', async () => new ReferenceBackend());
// Behind those that are chosen unasked.
registerBackend('webgpu', async () => {
  const { device, description } = await openDawn();
  return new WebGpuBackend(device, description);
});

let warned = false;

/** A warning of the process (`process.on('warning')` hears it), once. */
function warnOnce(message: string): void {
  if (!warned) process.emitWarning(message, { type: 'LowrankWarning', code: 'LOWRANK_SLOW_BACKEND' });
  warned = true;
}

/**
 * Opens a backend: the named one, or else `cpu`, or where that is not installed `reference`, which is many times slower: `onFallback` then
 * hears in one line what is missing and what mends it.
 */
export function openBackend(name?: string, onFallback: (message: string) => void = warnOnce): Promise<Backend> {
  return openAny(name, onFallback);
}

/** `startRun` on this machine: its files, its memory, the hub and its cache. */
export function startRun(recipe: RecipeInput | string, options: Partial<runs.RunOptions> = {}): Promise<RunResult> {
  return runs.startRun(recipe, { host: nodeHost, ...options });
}

/** `previewRun` on this machine. */
export function previewRun(
  recipe: RecipeInput | string,
  options: Partial<runs.RunContext> = {},
  count?: number,
): Promise<previews.Preview> {
  return previews.previewRun(recipe, { host: nodeHost, ...options }, count);
}

export { type CpuOptions, openCpuBackend } from './backends/cpu/index.js';
export * from './browser.js';
export { localFolder } from './io/node/folder.js';
export { openFile } from './io/node.js';
export { openModel, readRecipe } from './runs/node.js';
