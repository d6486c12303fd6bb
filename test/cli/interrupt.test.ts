import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test, vi } from 'vitest';
import { Terminal, tensorProgress } from '../../src/cli/console.js';
import { openSession } from '../../src/cli/session.js';
import '../../src/index.js';
import { openTextCodec } from '../../src/models/text-model.js';
import { openModel } from '../../src/runs/node.js';
import { inTurns } from '../../src/runs/progress.js';
import { writeTinyModel } from '../helpers/tiny-model.js';

const root = mkdtempSync(join(tmpdir(), 'lowrank-interrupt-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));

/** A terminal in a pipe whose lines are kept. */
function pipe(): { terminal: Terminal; lines: string[] } {
  const lines: string[] = [];
  const terminal = new Terminal();
  Object.assign(terminal, { live: false, note: (text: string) => lines.push(text) });
  return { terminal, lines };
}

test('Ctrl-C while a model loads gives up', async () => {
  const { terminal, lines } = pipe();
  const listeners = process.listenerCount('SIGINT');
  let turns = 0;
  terminal.bar = () => void (++turns === 2 && process.emit('SIGINT'));
  const source = await openModel(await writeTinyModel(join(root, 'model'), {}, 'F32'));
  const opened = openSession(terminal, source, openTextCodec(source), { device: 'reference' });
  await expect(opened).rejects.toMatchObject({ name: 'AbortError' });
  expect([turns, lines]).toEqual([2, ['stopping (Ctrl-C again stops at once)']]);
  expect(process.listenerCount('SIGINT')).toBe(listeners);
});

test('tensors that are written show a line from time to time in a pipe', async () => {
  const { terminal, lines } = pipe();
  const now = vi.spyOn(performance, 'now').mockReturnValue(0);
  const tensors = ['a', 'b', 'c', 'd'].map((name) => ({ name, dtype: 'F32', shape: [0], data: async () => new Uint8Array() }) as const);
  const shown = inTurns(tensors, tensorProgress(terminal, 'writing'));
  for (const [i, seconds] of [1, 11, 12, 22].entries()) {
    now.mockReturnValue(seconds * 1000);
    await shown[i].data();
  }
  now.mockRestore();
  expect(lines).toEqual(['writing 2/4, 0:20 left', 'writing 4/4']);
});
