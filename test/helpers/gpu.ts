import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { WebGpuBackend } from '../../src/backends/webgpu/index.js';
import { openDawn } from '../../src/io/node/dawn.js';

const folder = '/usr/share/vulkan/icd.d';
const lavapipe = existsSync(folder) ? readdirSync(folder).find((name) => /^lvp_icd.*\.json$/.test(name)) : undefined;

/**
 * Processors that play a GPU, by the file that tells Vulkan of them. Debian's packages chromium and mesa-vulkan-drivers (25 or newer) bring
 * them.
 */
const drivers: Readonly<Record<string, string | undefined>> = {
  swiftshader: ['/usr/lib/chromium/vk_swiftshader_icd.json'].find(existsSync),
  lavapipe: lavapipe && join(folder, lavapipe),
};

const isInstalled = existsSync('node_modules/webgpu');

/** Why a software GPU cannot be tested here, or undefined. */
export function withoutGpu(name: string): string | undefined {
  if (!isInstalled) return 'the package webgpu is not installed';
  return drivers[name] ? undefined : `no Vulkan driver of ${name} is installed`;
}

/** Makes this driver the only one that Vulkan finds. */
export function useGpu(name: string): void {
  process.env.VK_DRIVER_FILES = drivers[name];
  process.env.VK_ICD_FILENAMES = drivers[name];
}

export async function openGpu(name: string): Promise<WebGpuBackend> {
  useGpu(name);
  const { device, description } = await openDawn();
  return new WebGpuBackend(device, description);
}
