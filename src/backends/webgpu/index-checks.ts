import { Operand } from '../../core/operand.js';
import type { LowrankError } from '../../util/errors.js';
import type { GpuOperand, Kernel } from './kernel.js';
import { GpuBlock, sizeClass, usage } from './memory.js';
import type { GpuQueue } from './queue.js';

const size = 256;

/** Finds the first index outside [least, limit) and, unless something was found before, notes the number of the check, its place and it. */
const findOutside: Kernel = {
  name: 'findOutside',
  size,
  globals: () => `var<workgroup> firsts: array<u32, ${size}>;\n`,
  main: () => `  var first = 0xffffffffu;
  for (var i = lid; i < p.n; i += ${size}u) {
    let index = indices_at(i);
    if (index < bitcast<i32>(p.least) || index >= i32(p.limit)) { first = min(first, i); }
  }
  firsts[lid] = first;
  workgroupBarrier();
  if (lid != 0u) { return; }
  for (var other = 0u; other < ${size}u; other++) { first = min(first, firsts[other]); }
  if (first == 0xffffffffu || fault_at(0u) != 0) { return; }
  fault_set(0u, i32(p.number));
  fault_set(1u, i32(first));
  fault_set(2u, indices_at(first));`,
};

/** Finds the first segment that does not follow the one before or does not fit its matrices; then also the end. */
const findBadSegment: Kernel = {
  name: 'findBadSegment',
  size: 1,
  main: () => `  var next = 0;
  for (var s = 0u; s <= p.count; s++) {
    let last = s == p.count;
    let at = select(4u * s, 0u, last);
    let q0 = segments_at(at);
    let q1 = segments_at(at + 1u);
    let k0 = segments_at(at + 2u);
    let k1 = segments_at(at + 3u);
    let fits = q0 == next && q1 >= q0 && q1 <= i32(p.queries) && k0 >= 0 && k1 <= i32(p.keys) && k1 - k0 >= q1 - q0;
    if (select(!fits, next != i32(p.queries), last)) {
      if (fault_at(0u) == 0) {
        fault_set(0u, i32(p.number));
        fault_set(1u, i32(s));
        fault_set(2u, next);
      }
      return;
    }
    next = q1;
  }`,
};

/** An error from what a kernel noted. */
type Problem = (place: number, found: number) => LowrankError;

/**
 * Indices are read by the device alone, so it looks for bad ones: a kernel for each tensor of indices, once until it is written again. What
 * it found is read with the next `sync`.
 */
export class IndexChecks {
  private readonly queue: GpuQueue;
  private readonly fault: GpuOperand;
  /** Checks whose outcome is not known yet, by their numbers, which grow. */
  private readonly pending = new Map<number, Problem>();
  private last = 0;

  constructor(queue: GpuQueue) {
    this.queue = queue;
    const memory = queue.device.createBuffer({ size: sizeClass(16), usage: usage.storage | usage.copySource | usage.copyTarget });
    const buffer = new GpuBlock(queue.device, 16, 'workspace', memory);
    this.fault = new Operand('fault', { buffer, offset: 0, dtype: 'i32', shape: [4] }, buffer);
  }

  /** Notes the first of `indices` that is not in [least, limit). */
  add(indices: GpuOperand, least: number, limit: number): void {
    const integers = { n: indices.size, least: least >>> 0, limit };
    const problem: Problem = (place, found) => indices.problem(`${found} at ${place}`, `at least ${least}, below ${limit}`);
    this.enqueue(findOutside, { indices }, indices, integers, problem);
  }

  /** Notes the first of segments [S,4] that is not what attention asks for. */
  addSegments(segments: GpuOperand, queries: number, keys: number): void {
    const [count] = segments.shape;
    const problem: Problem = (place, found) =>
      place === count
        ? segments.problem(`ends at query ${found}`, `${queries}`)
        : segments.problem(`row ${place} does not fit ${queries} queries and ${keys} keys`);
    this.enqueue(findBadSegment, { segments }, segments, { count, queries, keys }, problem);
  }

  private enqueue(
    kernel: Kernel,
    reads: Readonly<Record<string, GpuOperand>>,
    operand: GpuOperand,
    integers: Readonly<Record<string, number>>,
    problem: Problem,
  ): void {
    const key = `${kernel.name} ${operand.offset} ${Object.values(integers)}`;
    if (operand.size === 0 || operand.buffer.checked.has(key)) return;
    operand.buffer.checked.add(key);
    this.pending.set(++this.last, problem);
    const writes = { fault: this.fault };
    this.queue.dispatch({ kernel, reads, writes, integers: { ...integers, number: this.last }, groups: [1, 1, 1] });
  }

  /** What was found, into a buffer to be mapped with the next submit; nothing where nothing was asked. */
  copy(): { staging: GPUBuffer; last: number } | undefined {
    if (this.pending.size === 0) return undefined;
    const staging = this.queue.device.createBuffer({ size: 16, usage: usage.mapRead | usage.copyTarget });
    this.queue.copy(this.fault.buffer.memory, 0, staging, 16);
    return { staging, last: this.last };
  }

  /** The error that a mapped copy tells of. Forgets the checks up to the copy. */
  found({ staging, last }: { staging: GPUBuffer; last: number }): LowrankError | undefined {
    const [number, place, index] = new Int32Array(staging.getMappedRange());
    staging.destroy();
    const problem = this.pending.get(number);
    for (const done of this.pending.keys()) if (done <= last) this.pending.delete(done);
    if (!problem) return undefined;
    this.queue.write(this.fault.buffer.memory, 0, new Uint8Array(16));
    return problem(place, index);
  }
}
