import { afterEach, beforeEach, expect, test } from 'vitest';
import { openCpuBackend } from '../../src/backends/cpu/index.js';
import type { Backend, DeviceBuffer } from '../../src/core/backend.js';
import { zeros } from '../../src/core/tensor.js';
import { matmulNT } from '../../src/ops/linear.js';
import { Random } from '../../src/util/philox.js';
import { describeNative } from '../helpers/native.js';

const megabyte = 2 ** 20;
const rss = () => process.memoryUsage.rss() / megabyte;

describeNative("the processor's memory", () => {
  let backend: Backend;
  beforeEach(async () => {
    backend = await openCpuBackend({ threads: 2 });
  });
  afterEach(async () => {
    await backend.close();
  });

  // In memory before anything is measured.
  const bytes = new Uint8Array(40 * megabyte).fill(1);
  interface Filled {
    readonly buffer: DeviceBuffer;
    readonly value: number;
  }
  /** A buffer that is full of one byte. */
  function filled(length: number, value: number): Filled {
    const buffer = backend.allocate(length, 'activations');
    backend.write(buffer, bytes.fill(value, 0, length).subarray(0, length));
    return { buffer, value };
  }
  async function isIntact({ buffer, value }: Filled): Promise<boolean> {
    return (await backend.read(buffer, 0, buffer.bytes)).every((byte) => byte === value);
  }
  const many = (count: number, length: number, first = 0) => Array.from({ length: count }, (_, i) => filled(length, (first + i) % 251));
  const freeAll = (all: Filled[]) => {
    for (const { buffer } of all) backend.free(buffer);
  };

  test('buffers of many sizes come and go without touching each other', async () => {
    const random = new Random(3, 0);
    const live: Filled[] = [];
    for (let i = 0; i < 600; i++) {
      if (live.length > 40) {
        const [one] = live.splice(Math.floor(random.next() * live.length), 1);
        expect(await isIntact(one)).toBe(true);
        backend.free(one.buffer);
      }
      live.push(filled(Math.ceil(2 ** (22 * random.next())), i % 251));
    }
    for (const one of live) expect(await isIntact(one)).toBe(true);
  });

  test('what buffers of one size leave serves those of others', async () => {
    const before = rss();
    for (const size of [1, 10, 3, 33, 2, 5]) freeAll(many(Math.floor(100 / size), size * megabyte));
    await backend.sync();
    expect(rss() - before).toBeLessThan(150);
  });

  test('holes that nothing fits give their pages back', async () => {
    const before = rss();
    const small = many(100, 3 * megabyte);
    await backend.sync();
    freeAll(small.filter((_, i) => i % 2 === 0));
    many(30, 5 * megabyte);
    await backend.sync();
    // 450 without.
    expect(rss() - before).toBeLessThan(370);
    for (const one of small.filter((_, i) => i % 2 === 1)) expect(await isIntact(one)).toBe(true);
  });

  test('what is written into pages that are on their way back stays', async () => {
    const small = many(100, 3 * megabyte);
    await backend.sync();
    const x = zeros(backend, [2048, 2048], 'f32');
    const out = zeros(backend, [2048, 2048], 'f32');
    await backend.sync();
    // The queue is busy; nothing that comes now has happened when the next tenants write.
    for (let i = 0; i < 4; i++) matmulNT(backend, x, x, out);
    freeAll(small.filter((_, i) => i % 2 === 0));
    many(30, 5 * megabyte);
    const again = many(50, 3 * megabyte, 100);
    for (const one of again) expect(await isIntact(one)).toBe(true);
  });
});
