import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { startRun } from '../../src/index.js';
import { useGpu, withoutGpu } from '../helpers/gpu.js';
import { notRun } from '../helpers/native.js';
import { writeRows, writeTinyModel } from '../helpers/tiny-model.js';

const missing = withoutGpu('swiftshader');
if (missing !== undefined) notRun('a run on a GPU', missing);

describe.skipIf(missing !== undefined)('a run on a GPU', () => {
  const root = mkdtempSync(join(tmpdir(), 'lowrank-webgpu-'));
  afterAll(() => rmSync(root, { recursive: true, force: true }));

  test('follows the plain loops, dropout and all', { timeout: 300_000 }, async () => {
    useGpu('swiftshader');
    const base_model = await writeTinyModel(join(root, 'model'), {}, 'F32');
    const datasets = writeRows(join(root, 'rows.jsonl'), 12);
    const losses = async (output_dir: string, device: string, max_steps: number) => {
      const recipe = {
        base_model,
        datasets,
        output_dir: join(root, output_dir),
        lora_r: 4,
        lora_dropout: 0.1,
        micro_batch_size: 4,
        bf16: false,
      };
      const seen: number[] = [];
      const schedule = { max_steps, lr_scheduler: 'constant' as const, learning_rate: 0.01 };
      const onEvent = (event: { type: string; record?: { loss?: number } }) => {
        if (event.type === 'step') seen.push(event.record!.loss!);
      };
      await startRun({ ...recipe, ...schedule }, { device, onEvent: onEvent as never });
      return seen;
    };
    const plain = await losses('plain', 'reference', 4);
    const gpu = await losses('gpu', 'webgpu', 4);
    expect(gpu).toHaveLength(4);
    for (const [i, loss] of gpu.entries()) expect(Math.abs(loss - plain[i]) / plain[i], `step ${i + 1}`).toBeLessThan(1e-4);
  });
});
