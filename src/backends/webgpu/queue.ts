import { debug } from '../../util/debug.js';
import { type Constants, type Dispatch, type Prepared, prepare } from './kernel.js';
import { usage } from './memory.js';

/** Bytes between the parameters of two dispatches: what dynamic offsets are multiples of on every device. */
const stride = 256;
/** Dispatches that are gathered before they are submitted; a GPU then has work while more is gathered. */
const batch = 1024;

/** Gathers dispatches and submits them in their order; keeps pipelines by their text. */
export class GpuQueue {
  readonly device: GPUDevice;
  private readonly pipelines = new Map<string, GPUComputePipeline>();
  private readonly layouts = new Map<string, GPUBindGroupLayout>();
  private readonly groups = new Map<string, GPUBindGroup>();
  private readonly numbers = new WeakMap<GPUBuffer, number>();
  private numbered = 0;
  private readonly parameters = new ArrayBuffer(stride * batch);
  private readonly uniforms: GPUBuffer;
  private encoder?: GPUCommandEncoder;
  private pass?: GPUComputePassEncoder;
  private gathered = 0;
  /** What the gathered commands use. */
  private readonly used = new Set<GPUBuffer>();

  constructor(device: GPUDevice) {
    this.device = device;
    this.uniforms = device.createBuffer({ size: stride * batch, usage: usage.uniform | usage.copyTarget });
  }

  dispatch<C extends Constants>(dispatch: Dispatch<C>): void {
    const [x, y, z] = dispatch.groups;
    if (x * y * z === 0) return;
    if (this.gathered === batch) this.flush();
    const prepared = prepare(dispatch);
    const { bindings, parameters, key } = prepared;
    const written = bindings.map((binding) => binding.written);
    const layout = this.layoutOf(written);
    const pipeline = this.pipelines.get(key) ?? this.compile(key, dispatch.kernel.name, prepared, layout);
    const place = this.gathered++ * stride;
    const view = new DataView(this.parameters, place, stride);
    parameters.forEach(({ value, float }, i) => {
      if (float) view.setFloat32(4 * i, value, true);
      else view.setUint32(4 * i, value, true);
    });
    this.encoder ??= this.device.createCommandEncoder();
    this.pass ??= this.encoder.beginComputePass();
    this.pass.setPipeline(pipeline);
    this.pass.setBindGroup(0, this.group(written, prepared, layout), [place]);
    this.pass.dispatchWorkgroups(x, y, z);
    for (const { block } of bindings) this.used.add(block.memory);
  }

  /** Copies bytes, multiples of 4, within the order of the dispatches. */
  copy(from: GPUBuffer, offset: number, to: GPUBuffer, bytes: number): void {
    this.pass?.end();
    this.pass = undefined;
    this.encoder ??= this.device.createCommandEncoder();
    this.encoder.copyBufferToBuffer(from, offset, to, 0, bytes);
  }

  /** Writes to a buffer, behind what was gathered. */
  write(memory: GPUBuffer, offset: number, data: Uint8Array<ArrayBuffer>): void {
    if (this.used.has(memory)) this.flush();
    this.device.queue.writeBuffer(memory, offset, data);
  }

  /** Submits what was gathered. */
  flush(): void {
    if (!this.encoder) return;
    this.pass?.end();
    if (this.gathered > 0) this.device.queue.writeBuffer(this.uniforms, 0, this.parameters, 0, this.gathered * stride);
    this.device.queue.submit([this.encoder.finish()]);
    this.encoder = undefined;
    this.pass = undefined;
    this.gathered = 0;
    this.used.clear();
  }

  private layoutOf(written: readonly boolean[]): GPUBindGroupLayout {
    const key = String(written);
    const known = this.layouts.get(key);
    if (known) return known;
    const visibility = 0x4;
    const layout = this.device.createBindGroupLayout({
      entries: [
        { binding: 0, visibility, buffer: { type: 'uniform', hasDynamicOffset: true } },
        ...written.map((write, slot): GPUBindGroupLayoutEntry => {
          return { binding: slot + 1, visibility, buffer: { type: write ? 'storage' : 'read-only-storage' } };
        }),
      ],
    });
    this.layouts.set(key, layout);
    return layout;
  }

  private compile(key: string, label: string, { text }: Prepared, layout: GPUBindGroupLayout): GPUComputePipeline {
    const code = text();
    debug(4, () => code);
    const module = this.device.createShaderModule({ label, code });
    const pipeline = this.device.createComputePipeline({
      label,
      layout: this.device.createPipelineLayout({ bindGroupLayouts: [layout] }),
      compute: { module, entryPoint: 'main' },
    });
    this.pipelines.set(key, pipeline);
    return pipeline;
  }

  private group(written: readonly boolean[], { bindings }: Prepared, layout: GPUBindGroupLayout): GPUBindGroup {
    const key = bindings.map(({ block, from, to }, i) => `${this.numberOf(block.memory)} ${from} ${to} ${written[i]}`).join();
    const known = this.groups.get(key);
    if (known) return known;
    if (this.groups.size > 8192) this.groups.clear();
    const group = this.device.createBindGroup({
      layout,
      entries: [
        { binding: 0, resource: { buffer: this.uniforms, size: stride } },
        ...bindings.map(({ block: { memory }, from, to }, slot) => {
          return { binding: slot + 1, resource: { buffer: memory, offset: from, size: Math.ceil(Math.max(4, to - from) / 4) * 4 } };
        }),
      ],
    });
    this.groups.set(key, group);
    return group;
  }

  private numberOf(memory: GPUBuffer): number {
    const known = this.numbers.get(memory) ?? ++this.numbered;
    this.numbers.set(memory, known);
    return known;
  }
}
