import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { BackendUnavailable, registerBackend } from '../../src/core/device.js';
import { startRun } from '../../src/index.js';
import { openTextCodec } from '../../src/models/text-model.js';
import type { SessionEvent } from '../../src/runs/events.js';
import { nodeHost } from '../../src/runs/node.js';
import { attachAdapter, findBase, findModel, openDevice, openSession } from '../../src/runs/session.js';
import { writeRows, writeTinyModel } from '../helpers/tiny-model.js';

const root = mkdtempSync(join(tmpdir(), 'lowrank-session-'));
const at = (...names: string[]) => join(root, ...names);
beforeAll(async () => {
  await writeTinyModel(at('model'));
  await writeTinyModel(at('other'), { rms_norm_eps: 1e-4 });
  const datasets = [writeRows(at('train.jsonl'), 4)];
  await startRun({ base_model: at('model'), datasets, output_dir: at('run'), lora_r: 2, max_steps: 1 }, { device: 'reference' });
});
afterAll(() => rmSync(root, { recursive: true, force: true }));

test('an adapter on another base than its own is warned of', async () => {
  for (const name of ['model', 'other']) {
    const events: SessionEvent[] = [];
    const context = { host: nodeHost, onEvent: (event: SessionEvent) => void events.push(event) };
    const source = await findModel(at(name), context);
    const session = await openSession(source, openTextCodec(source), { device: 'reference', precision: 'fp32' }, context);
    const adapter = await attachAdapter(session, nodeHost.folder(at('run')), context);
    adapter.dispose();
    await session.close();
    const warnings = events.flatMap((event) => (event.type === 'warning' ? [event.message] : []));
    const message = `the adapter ${at('run')} was trained on another base than ${at(name)}: answers may be poor`;
    expect(warnings).toEqual(name === 'model' ? [] : [message]);
  }
});

test('an adapter’s folder names its base', async () => {
  const base = await findBase(nodeHost.folder(at('run')), { host: nodeHost });
  expect(base.name).toBe(at('model'));
  await base.checkpoint.close();
  writeFileSync(at('adapter_config.json'), '{"base_model_name_or_path": ""}');
  await expect(findBase(nodeHost.folder(root), { host: nodeHost })).rejects.toThrow(`${root}/adapter_config.json: names no base model`);
});

test('a slow device in place of a fast one is warned of, each time', async () => {
  registerBackend('cpu', async () => {
    throw new BackendUnavailable('the fast one is not here', { mend: 'build it', without: '40 times slower' });
  });
  for (let i = 0; i < 2; i++) {
    const events: SessionEvent[] = [];
    const backend = await openDevice(undefined, { host: nodeHost, onEvent: (event) => void events.push(event) });
    await backend.close();
    expect(events).toEqual([
      { type: 'warning', message: 'the fast one is not here: all runs 40 times slower without backend "cpu"; to mend: build it' },
      { type: 'device', name: 'reference', description: backend.description },
    ]);
  }
});
