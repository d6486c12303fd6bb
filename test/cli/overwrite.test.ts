import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { refuseToReplace, refuseToReplaceSource } from '../../src/cli/overwrite.js';
import type { ModelSource } from '../../src/io/model-source.js';
import { lowrank } from '../helpers/cli.js';
import { writeRows, writeTinyModel } from '../helpers/tiny-model.js';

const folder = mkdtempSync(join(tmpdir(), 'lowrank-overwrite-'));
const at = (...names: string[]) => join(folder, ...names);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

beforeAll(async () => {
  await writeTinyModel(at('model'));
  writeRows(at('train.jsonl'), 8, 1);
  const recipe = `base_model: model\ndatasets: train.jsonl\noutput_dir: ${at('run')}\nmax_steps: 1\nlora_r: 2\nbf16: false\n`;
  writeFileSync(at('recipe.yaml'), recipe);
  expect(await lowrank(['train', at('recipe.yaml')])).toMatchObject({ code: 0 });
});

test.each<[string, string[]]>([
  ['quantize', ['--model', at('model')]],
  ['merge', ['--adapter', at('run')]],
])('%s --overwrite replaces an earlier result', async (command, from) => {
  const out = at(`${command}d`);
  const run = (...more: string[]) => lowrank([command, ...from, '--out', out, ...more]);
  expect(await run()).toMatchObject({ code: 0 });
  const files = readdirSync(out).sort();
  writeFileSync(join(out, 'model.safetensors'), 'of an earlier run');
  writeFileSync(join(out, 'model-00001-of-00009.safetensors'), 'of an earlier run');

  expect(await run()).toMatchObject({ code: 1, err: expect.stringMatching(/exists already\n {2}to mend: add --overwrite/) });
  expect(readFileSync(join(out, 'model.safetensors'), 'utf8')).toBe('of an earlier run');
  expect(await run('--overwrite')).toMatchObject({ code: 0 });
  expect(readdirSync(out).sort()).toEqual(files);
  expect(readFileSync(join(out, 'model.safetensors')).length).toBeGreaterThan(1000);
  expect(readdirSync(folder).filter((name) => name.startsWith('.'))).toEqual([]);
});

test('--overwrite replaces no folder of something else, and not what the result is made of', () => {
  mkdirSync(at('photos'), { recursive: true });
  writeFileSync(at('photos', 'one.jpg'), 'a picture');
  const overwrite = true;
  expect(() => refuseToReplace(at('photos'), { overwrite })).toThrow(/holds no model that --overwrite could replace/);
  expect(() => refuseToReplace(at('model'), { overwrite, adapter: at('model', 'adapter') })).toThrow(/holds the adapter/);
  expect(() => refuseToReplace(at('nowhere'), {})).not.toThrow();
  const source = { path: at('model') } as ModelSource;
  expect(() => refuseToReplaceSource(at('model'), source)).toThrow(/holds the model that is read/);
  expect(() => refuseToReplaceSource(at('models'), source)).not.toThrow();
});
