import { openCpuBackend } from './backends/cpu/index.js';
import { ReferenceBackend } from './backends/reference/index.js';
import { registerBackend } from './core/device.js';

registerBackend('cpu', () => openCpuBackend());
registerBackend('reference', async () => new ReferenceBackend());

export { type CpuOptions, openCpuBackend } from './backends/cpu/index.js';
export * from './browser.js';
export { localFolder } from './io/node/folder.js';
export { openFile, openModel } from './io/node.js';
