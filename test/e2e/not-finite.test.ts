/** NaN and infinity in files of weights, as every command meets them: named, never answered with. */
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { chatml } from '../data/golden.js';
import { lowrank } from '../helpers/cli.js';
import { writeChainModel, writeRows, writeTinyModel } from '../helpers/tiny-model.js';

const root = mkdtempSync(join(tmpdir(), 'lowrank-not-finite-'));
const at = (...names: string[]) => join(root, ...names);
beforeAll(async () => {
  await writeTinyModel(at('model'), { tie_word_embeddings: false });
  writeRows(at('train.jsonl'), 8, 1);
  writeRows(at('test.jsonl'), 3, 2);
  writeFileSync(at('recipe.yaml'), JSON.stringify({ ...recipe, output_dir: at('adapter'), max_steps: 1 }));
  expect(await lowrank(['train', at('recipe.yaml')])).toMatchObject({ code: 0 });
});
afterAll(() => rmSync(root, { recursive: true, force: true }));

const recipe = { base_model: 'model', datasets: ['train.jsonl'], test_datasets: ['test.jsonl'], lora_r: 4, bf16: false };

/** Copies a folder of weights and puts a value into one element of an F32 tensor. */
function poison(from: string, to: string, name: string, value: number, element = 0): string {
  cpSync(at(from), at(to), { recursive: true });
  const path = at(to, from === 'adapter' ? 'adapter_model.safetensors' : 'model.safetensors');
  const bytes = readFileSync(path);
  const length = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.subarray(8, 8 + length).toString());
  bytes.writeFloatLE(value, 8 + length + header[name].data_offsets[0] + 4 * element);
  writeFileSync(path, bytes);
  return at(to);
}

const matrix = 'base_model.model.model.layers.1.mlp.down_proj.lora_B.weight';

test.each([
  ['NaN', Number.NaN],
  ['-Infinity', Number.NEGATIVE_INFINITY],
])('an adapter with %s is refused as it is loaded', async (text, value) => {
  const adapter = poison('adapter', `adapter-${text}`, matrix, value, 7);
  const say = new RegExp(`adapter_model\\.safetensors: tensor "${matrix.replaceAll('.', '\\.')}" holds ${text}, .* element 7\\n`);
  const others = [['chat'], ['eval', at('recipe.yaml')], ['merge', '--out', at('merged')]];
  const commands = [['generate', 'hello'], ...(text === 'NaN' ? others : [])];
  for (const [command, ...args] of commands) {
    const { code, err } = await lowrank([command, '--adapter', adapter, ...args], { input: 'hello\n' });
    expect({ command, code, named: say.test(err) }, err).toEqual({ command, code: 1, named: true });
  }
});

test.each([
  ['NaN in a layer', 'model.layers.0.mlp.up_proj.weight', Number.NaN],
  ['an infinite row of the head', 'lm_head.weight', Number.POSITIVE_INFINITY],
])('a base with %s is named where it is first used', async (name, tensor, value) => {
  const base = poison('model', name.replaceAll(' ', '-'), tensor, value);
  const say = new RegExp(`tensor "${tensor.replaceAll('.', '\\.')}": holds NaN or infinity`);
  const commands = [
    ['generate', '--model', base, 'hello'],
    ['chat', '--model', base],
    ['eval', at('recipe.yaml'), `base_model=${base}`],
  ];
  for (const [command, ...args] of commands) {
    const { code, err, out } = await lowrank([command, ...args], { input: 'hello\n' });
    expect({ command, code, out: out.trim(), named: say.test(err) }, err).toEqual({ command, code: 1, out: '', named: true });
  }
});

test('NaN that only a later token meets ends the answer there', async () => {
  await writeChainModel(at('chain'), '\n', ['a', 'b', 'c']);
  const width = 48;
  const embedding = 'model.embed_tokens.weight';
  const base = poison('chain', 'broken-chain', embedding, Number.NaN, width * chatml.encode('b').at(-1)!);
  for (const sampling of [[], ['--temperature', '0.01']]) {
    const { code, out, err } = await lowrank(['generate', '--model', base, '--max-new-tokens', '8', ...sampling, 'hello']);
    expect({ code, out: out.trim() }, err).toEqual({ code: 1, out: 'ab' });
    expect(err).toContain(`tensor "${embedding}": holds NaN or infinity`);
  }
});
