import { beforeEach, expect, test, vi } from 'vitest';
import { Terminal } from '../../src/cli/console.js';
import { runListener } from '../../src/cli/run-listener.js';
import type { MemoryUse } from '../../src/core/backend.js';
import type { RunEvent } from '../../src/runs/events.js';

/** What a terminal is told, in order: lines as they are, bars as `[share] text`, and `[]` where a bar is removed. */
let told: string[];
beforeEach(() => {
  told = [];
});

function listener(live: boolean): (event: RunEvent) => void {
  const terminal = new Terminal();
  Object.assign(terminal, { live });
  vi.spyOn(terminal, 'note').mockImplementation((line) => void told.push(line));
  vi.spyOn(terminal, 'bar').mockImplementation((share, text) => void told.push(`[${share}] ${text}`));
  vi.spyOn(terminal, 'clearBar').mockImplementation(() => void told.push('[]'));
  return runListener(terminal);
}

const record = {
  step: 3,
  total_steps: 12,
  epoch: 0.5,
  loss: 1.23456,
  grad_norm: 1,
  learning_rate: 2e-4,
  tokens: 90,
  supervised: 50,
  seconds: 1.5,
};
const progress = { seconds: 61, remaining_seconds: 183, tokens: 270, tokens_per_second: 1234.5 };
const step: RunEvent = { type: 'step', record, progress, logged: true };

test('downloads, loading and quantising move a bar, which goes when they are done', () => {
  const listen = listener(true);
  listen({ type: 'download', file: 'model.safetensors', done_bytes: 1.5e6, total_bytes: 3e6 });
  listen({ type: 'download', file: 'model.safetensors', done_bytes: 3e6, total_bytes: 3e6 });
  listen({ type: 'quantizing', model: 'm', path: 'cache/x', done: 0, total: 4 });
  listen({ type: 'quantizing', model: 'm', path: 'cache/x', done: 1, total: 4 });
  listen({ type: 'streaming', bytes: 2.5e9, path: 'cache/x' });
  listen({ type: 'loading', model: 'm', done: 1, total: 2 });
  listen({ type: 'loading', model: 'm', done: 2, total: 2 });
  expect(told).toEqual([
    ...['[0.5] model.safetensors  1.5 MB of 3.0 MB', '[]'],
    ...['quantising m into cache/x', '[0.25] quantising 1/4', 'streaming  2.50 GB of weights from cache/x'],
    ...['[0.5] loading m', '[]'],
  ]);
});

test('in a terminal a step moves the bar, in a pipe it is a line where it is to be logged', () => {
  const text = '3/12 1:01<3:03 loss 1.2346 1,235 tok/s';
  listener(true)(step);
  listener(true)({ type: 'checkpoint', step: 3, path: 'out/checkpoint-3' });
  expect(told.splice(0)).toEqual([`[0.25] ${text}`]);
  listener(false)(step);
  listener(false)({ ...step, logged: false });
  listener(false)({ type: 'checkpoint', step: 3, path: 'out/checkpoint-3' });
  expect(told).toEqual([`[0.25] ${text}`, `step ${text} lr 2.00e-4 1.50 s/it`, `[0.25] ${text}`, 'saved out/checkpoint-3']);
});

test.each([
  [{ steps: 10, trained_steps: 10 }, '10 steps in 1:05, 1,234 tokens/s, loss 0.5000'],
  [{ steps: 10, trained_steps: 4 }, '4 steps, on from step 6, in 1:05, 1,234 tokens/s, loss 0.5000'],
  [
    { steps: 7, trained_steps: 1, interrupted: true },
    '1 step, on from step 6, interrupted after step 7 of 10 in 1:05, 1,234 tokens/s, loss 0.5000',
  ],
  [{ steps: 10, trained_steps: 0 }, 'no step was left after step 10; loss 0.5000'],
])('the closing line counts what this run did: %j', (made, line) => {
  const memory = { current: 0, peak: 7e6, currentOf: {}, peakOf: {} } as unknown as MemoryUse;
  const speeds = {
    seconds: 65,
    tokens: 9,
    tokens_per_second: 1234,
    loss: 0.4,
    mean_loss: 0.5,
    peak_rss_bytes: 1e8,
    planned_rss_bytes: 2e8,
  };
  const result = { total_steps: 10, interrupted: false, framing: 'chat', adapter_dir: 'out', memory, ...speeds, ...made } as const;
  listener(false)({ type: 'end', result });
  expect(told.filter((text) => text.startsWith('done'))).toEqual([`done       ${line}`]);
});
