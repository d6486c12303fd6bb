import { BackendUnavailable } from '../../core/device.js';
import { LowrankError, messageOf } from '../../util/errors.js';

/** A device of Dawn's, and one line about it. */
export interface DawnDevice {
  readonly device: GPUDevice;
  readonly description: string;
  /** Whether a processor plays the GPU. */
  readonly software: boolean;
}

/**
 * Opens a GPU through Dawn, which the optional package `webgpu` brings to Node: Vulkan, Metal or Direct3D 12. Throws where the package is
 * not installed or no adapter is found.
 */
export async function openDawn(): Promise<DawnDevice> {
  // Not there when this is compiled: who wants it installs it.
  const name: string = 'webgpu';
  const { create } = (await import(name).catch((error) => {
    throw new BackendUnavailable('the package webgpu is not installed', {
      place: 'device webgpu',
      mend: 'npm install webgpu, 130 MB',
      without: 'on the processor',
      cause: error,
    });
  })) as { create(options: string[]): GPU };
  const gpu = create([]);
  const adapter = await gpu.requestAdapter({ powerPreference: 'high-performance' });
  if (!adapter)
    throw new LowrankError('no adapter was found', {
      place: 'device webgpu',
      mend: 'install the driver of the GPU, or leave the device out',
    });
  const { info, limits } = adapter;
  const device = await adapter
    .requestDevice({
      requiredLimits: {
        maxBufferSize: limits.maxBufferSize,
        maxStorageBufferBindingSize: limits.maxStorageBufferBindingSize,
        maxStorageBuffersPerShaderStage: limits.maxStorageBuffersPerShaderStage,
        maxComputeWorkgroupStorageSize: limits.maxComputeWorkgroupStorageSize,
      },
    })
    .catch((error) => {
      throw new LowrankError(messageOf(error), { place: 'device webgpu', cause: error });
    });
  keepAlive(device, gpu);
  const software = info.isFallbackAdapter;
  return {
    device,
    software,
    description: `webgpu: ${info.description || info.device}${software ? ', a processor in place of a GPU' : ''}`,
  };
}

/** Dawn ends with its instance. */
const instances = new WeakMap<GPUDevice, GPU>();
function keepAlive(device: GPUDevice, gpu: GPU): void {
  instances.set(device, gpu);
}
