import { spawnSync } from 'node:child_process';
import { cpSync, mkdtempSync, readdirSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, expect, test, vi } from 'vitest';
import '../../src/index.js';
import { Terminal } from '../../src/cli/console.js';
import { heldQuestions } from '../../src/cli/eval.js';
import { quickstart } from '../../src/cli/quickstart.js';
import { tinyOrders } from '../../src/cli/quickstart-tiny.js';
import { openBackend } from '../../src/core/device.js';
import { exactMatch } from '../../src/generate/exact-match.js';
import { loadModel } from '../../src/models/load.js';
import { openTextCodec } from '../../src/models/text-model.js';
import { heldBatches, prepareData } from '../../src/runs/data.js';
import { openModel } from '../../src/runs/node.js';
import { countAnswered } from '../../src/train/step.js';
import { lowrank } from '../helpers/cli.js';
import { withoutNative } from '../helpers/native.js';

const folder = mkdtempSync(join(tmpdir(), 'lowrank-quickstart-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const device = withoutNative === undefined ? 'cpu' : 'reference';

/** Runs the tiny quickstart; gives its JSON and what it said. */
async function tiny(name: string, ...overrides: string[]): Promise<{ json: Record<string, unknown>; said: string[]; path: string }> {
  const path = join(folder, name);
  const said: string[] = [];
  const out = vi.spyOn(process.stdout, 'write').mockReturnValue(true);
  const terminal = new Terminal(true);
  vi.spyOn(terminal, 'note').mockImplementation((line) => void said.push(line));
  try {
    await quickstart(terminal, await tinyOrders([`output_dir=${path}`, ...overrides]), device);
    return { json: JSON.parse(String(out.mock.calls[0][0])), said, path };
  } finally {
    out.mockRestore();
  }
}

test('training ends when the validation rows are answered, and the model then answers orders that it never saw', async () => {
  const { json, said, path } = await tiny('learned');
  expect(json).toMatchObject({ model: 'a tiny Llama with random weights', total_steps: 160, model_dir: path });
  expect(json.steps).toBeLessThan(150);
  expect(json.stopped).toMatch(new RegExp(`^validation answered 3[012] of 32 after ${json.steps} steps$`));
  expect(json.base_exact_match).toBe(0);
  expect(json.tuned_exact_match).toBeGreaterThanOrEqual(0.9);
  expect(said).toContain(`stopped    ${json.stopped}`);
  expect(said.filter((line) => line.startsWith('estimate'))).toEqual([
    expect.stringMatching(/^estimate {3}\d+\.\d s a step, at most \d+:\d\d to go; ends when 30 of 32 are answered$/),
  ]);
  expect(said).toContainEqual(expect.stringMatching(/^check {6}step 5: 0 of 16 validation rows answered, at most \d+:\d\d to go$/));
  expect(readdirSync(path)).toEqual(expect.arrayContaining(['config.json', 'model.safetensors', 'README.md', `checkpoint-${json.steps}`]));

  // The rows that are counted in one pass are those that decoding answers.
  const { recipe, datasets, tests } = await tinyOrders([]);
  const source = await openModel(path);
  const backend = await openBackend(device);
  const { model, dispose } = await loadModel(source, backend, { precision: 'fp32' });
  const codec = openTextCodec(source, { jinja: recipe.chat_template_jinja });
  const data = await prepareData(recipe, codec, datasets, tests);
  const questions = await heldQuestions(recipe, codec, [...datasets, ...tests], new Set(data.held.map(({ row }) => row)));
  const { exact_match } = await exactMatch({ ...codec, model }, questions, { max_new_tokens: 16, batch: 72 });
  const batches = heldBatches(recipe, data);
  const counted = await countAnswered(model, batches);
  expect(counted).toEqual({ answered: Math.round(exact_match * 72), examples: 72 });
  // With labels that nothing predicts the first batch is enough.
  const strange = batches.map((batch) => ({ ...batch, labels: batch.labels.map((label) => Math.min(label, 0)) }));
  expect(await countAnswered(model, strange, { misses: 3 })).toEqual({ answered: 0, examples: 16 });
  dispose();
  await backend.close();
  await source.checkpoint.close();
});

test('the same seed takes the same steps; without validation rows all are taken', async () => {
  const [first, second] = [await tiny('first', 'max_steps=6', 'seed=5'), await tiny('second', 'max_steps=6', 'seed=5')];
  expect(first.json).toMatchObject({ steps: 6, stopped: 'all 6 steps' });
  const checks = ({ said }: typeof first) => said.filter((line) => line.startsWith('check')).map((line) => line.split(',')[0]);
  expect(checks(first)).toHaveLength(1);
  expect(checks(first)).toEqual(checks(second));
  const without = await tiny('without', 'max_steps=6', 'val_set_size=0');
  expect(without.json).toMatchObject({ steps: 6, stopped: 'all 6 steps' });
  expect(checks(without)).toEqual([]);
  expect(without.said).toContainEqual(expect.stringMatching(/^estimate {3}\d+\.\d s a step, at most \d+:\d\d to go$/));
});

test('where plain loops are asked for, a tiny model is trained and the command says so', async () => {
  const args = ['quickstart', '--device', 'reference', '--json', `output_dir=${join(folder, 'plain')}`, 'max_steps=2'];
  const { code, out, err } = await lowrank(args);
  expect(code).toBe(0);
  expect(JSON.parse(out)).toMatchObject({
    model: 'a tiny Llama with random weights',
    device: 'reference: plain TypeScript, slow',
    steps: 2,
  });
  expect(err).toMatch(/Plain loops \("reference"\) would train the real model for hours/);
  expect(err).not.toMatch(/install a C\+\+20 compiler/);
});

test('an installation without the native backend does the same and says what to install', () => {
  const bare = join(folder, 'bare');
  for (const name of ['dist', 'examples', 'package.json']) cpSync(name, join(bare, name), { recursive: true });
  symlinkSync(resolve('node_modules'), join(bare, 'node_modules'));
  const args = [join(bare, 'dist/cli/main.js'), 'quickstart', '--json', `output_dir=${join(folder, 'bare-out')}`, 'max_steps=2'];
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8', env: { ...process.env, NO_COLOR: '1' } });
  expect(status).toBe(0);
  expect(JSON.parse(stdout)).toMatchObject({ device: 'reference: plain TypeScript, slow', steps: 2, stopped: 'all 2 steps' });
  expect(stderr).toMatch(/install a C\+\+20 compiler, then build:\n\n {4}\S.*\n {4}npx lowrank build-native\n {4}npm run quickstart\n/);
});
