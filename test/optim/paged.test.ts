import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { openCpuBackend } from '../../src/backends/cpu/index.js';
import type { Backend } from '../../src/core/backend.js';
import { Gradients } from '../../src/core/tape.js';
import { fromArray } from '../../src/core/tensor.js';
import { createOptimizer, type OptimizerName } from '../../src/optim/optimizer.js';
import { LowrankError } from '../../src/util/errors.js';
import { Random } from '../../src/util/philox.js';
import { describeNative, testNative } from '../helpers/native.js';

const folder = mkdtempSync(join(tmpdir(), 'lowrank-paged-'));
const options = { adam_beta1: 0.9, adam_beta2: 0.99, adam_epsilon: 1e-8, weight_decay: 0.1 };
const shape = [1000, 2000];
const values = (seed: number) => {
  const random = new Random(seed, 0);
  return Float32Array.from({ length: shape[0] * shape[1] }, () => 2 * random.next() - 1);
};
const [start, ...gradients] = [0, 1, 2, 3].map(values);

/** MB of the process's memory that lie in files of the folder. */
const residentMb = () => {
  const mappings = readFileSync('/proc/self/smaps', 'utf8').split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m);
  const kilobytes = mappings.filter((text) => text.includes(folder)).map((text) => Number(/^Rss: +(\d+)/m.exec(text)?.[1]));
  return { mappings: kilobytes.length, resident: kilobytes.reduce((sum, n) => sum + n, 0) / 1000 };
};

describeNative('paged states', () => {
  let backend: Backend;
  beforeAll(async () => {
    backend = await openCpuBackend({ threads: 2 });
  });
  afterAll(async () => {
    await backend.close();
    rmSync(folder, { recursive: true, force: true });
  });

  async function run(name: OptimizerName, limit?: number, seen?: () => void): Promise<Float32Array> {
    const parameter = fromArray(backend, start, shape);
    const optimizer = createOptimizer(name, new Map([['p', parameter]]), { ...options, paging: { folder, limit } });
    for (const gradient of gradients) {
      const now = new Gradients([[parameter, fromArray(backend, gradient, shape)]]);
      optimizer.step(now, 0.01, 1);
      for (const tensor of now.values()) tensor.dispose();
      await backend.sync();
    }
    seen?.();
    optimizer.dispose();
    const result = await parameter.toFloat32();
    parameter.dispose();
    await backend.sync();
    return result;
  }

  test.each([
    ['paged_adamw_32bit', 'adamw_torch'],
    ['paged_adamw_8bit', 'adamw_bnb_8bit'],
    ['paged_lion_8bit', 'lion_8bit'],
  ] as const)('%s gives the bits of %s, in memory and out of it', async (paged, plain) => {
    const want = await run(plain);
    for (const limit of [undefined, 1e15, 0])
      expect(Buffer.compare(Buffer.from((await run(paged, limit)).buffer), Buffer.from(want.buffer))).toBe(0);
    expect(readdirSync(folder)).toEqual([]);
  });

  testNative(
    'above the limit no page stays in memory; the files end with the optimizer',
    async () => {
      let [kept, released] = [residentMb(), residentMb()];
      await run('paged_adamw_32bit', 1e15, () => {
        kept = residentMb();
      });
      await run('paged_adamw_32bit', 0, () => {
        released = residentMb();
      });
      expect(kept).toMatchObject({ mappings: 2, resident: expect.closeTo(16, -1) });
      expect(released).toMatchObject({ mappings: 2, resident: 0 });
      expect(residentMb().mappings).toBe(0);
    },
    'linux',
  );

  test('a disk without room is an error that says so', () => {
    expect(() => backend.allocatePaged?.(2 ** 52, 'optimizer', folder)).toThrow(LowrankError);
    expect(() => backend.allocatePaged?.(2 ** 52, 'optimizer', folder)).toThrow(/the disk does not give it/);
  });

  test('an optimizer that cannot be paged leaves nothing behind', async () => {
    const parameter = fromArray(backend, start, shape);
    const small = fromArray(backend, new Float32Array(3));
    const { current } = backend.memory();
    const paging = { folder: join(folder, 'file'), limit: 0 };
    writeFileSync(paging.folder, '');
    expect(() => createOptimizer('paged_adamw_8bit', new Map(Object.entries({ small, parameter })), { ...options, paging })).toThrow(
      LowrankError,
    );
    rmSync(paging.folder);
    expect(backend.memory().current).toBe(current);
    small.dispose();
    parameter.dispose();
  });

  test('only paged memory can be released', () => {
    const buffer = backend.allocate(64, 'optimizer');
    expect(() => backend.release?.({ buffer, offset: 0, bytes: 1 }, 0)).toThrow(/only mapped files and paged memory/);
    backend.free(buffer);
  });
});
