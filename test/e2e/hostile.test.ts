/**
 * What comes from outside and is wrong, through the command line: one clear error with place and mend, exit 1, and the earlier run as it
 * was.
 */
import { createHash } from 'node:crypto';
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { lowrank } from '../helpers/cli.js';
import { writeRows, writeTinyModel } from '../helpers/tiny-model.js';
import { GgufBuilder, tinyLlama, types } from '../io/gguf-builder.js';

const folder = mkdtempSync(join(tmpdir(), 'lowrank-hostile-'));
const at = (...names: string[]) => join(folder, ...names);
const settings = `base_model: model
datasets: [train.jsonl]
output_dir: ${at('run')}
micro_batch_size: 4
max_steps: 2
lora_r: 4
bf16: false
`;

const fingerprint = () =>
  readdirSync(at('run'), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
    .sort()
    .map((path) => `${path} ${createHash('sha256').update(readFileSync(path)).digest('hex')}`);

let earlier: string[];
beforeAll(async () => {
  await writeTinyModel(at('model'));
  writeRows(at('train.jsonl'), 12, 1);
  writeFileSync(at('recipe.yaml'), settings);
  expect((await lowrank(['train', at('recipe.yaml')])).code).toBe(0);
  earlier = fingerprint();
  expect(earlier.length).toBeGreaterThan(5);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** The tiny model with a file of it changed; `change` gets the sound content. */
function model(file: string, change: (content: Buffer) => string | Uint8Array): string[] {
  rmSync(at('wrong'), { recursive: true, force: true });
  cpSync(at('model'), at('wrong'), { recursive: true });
  writeFileSync(at('wrong', file), change(readFileSync(at('model', file))));
  return [`base_model=${at('wrong')}`];
}

/** The tiny model with another header of its weights. */
const weights = (change: (header: Record<string, { dtype: string; shape: number[]; data_offsets: number[] }>) => unknown): string[] =>
  model('model.safetensors', (content) => {
    const length = Number(content.readBigUInt64LE(0));
    const header = JSON.parse(content.toString('utf8', 8, 8 + length));
    const text = Buffer.from(JSON.stringify(change(header) ?? header));
    const start = Buffer.alloc(8);
    start.writeBigUInt64LE(BigInt(text.length));
    return Buffer.concat([start, text, content.subarray(8 + length)]);
  });
const norm = 'model.norm.weight';
const json = (file: string, change: (value: Record<string, unknown>) => unknown) =>
  model(file, (content) => {
    const value = JSON.parse(content.toString());
    return JSON.stringify(change(value) ?? value);
  });
const template = (source: string) =>
  json('tokenizer_config.json', (config) => {
    config.chat_template = source;
  });
const gguf = (bytes: Uint8Array) => {
  writeFileSync(at('wrong.gguf'), bytes);
  return [`base_model=${at('wrong.gguf')}`];
};
const data = (text: string | Uint8Array, name = 'wrong.jsonl') => {
  writeFileSync(at(name), text);
  return [`datasets=[${name}]`];
};
const recipe = (text: string) => {
  writeFileSync(at('wrong.yaml'), text);
  return [];
};
const chat = (...messages: unknown[]) => `${JSON.stringify({ messages })}\n`;

const cases: [string, () => string[], RegExp, RegExp][] = [
  // Weights.
  ['weights cut short', () => model('model.safetensors', (content) => content.subarray(0, 5000)), /model\.safetensors/, /./],
  ['weights of five bytes', () => model('model.safetensors', () => 'short'), /model\.safetensors/, /only 5 bytes long/],
  [
    'an oversized header',
    () => model('model.safetensors', (c) => Buffer.concat([Buffer.alloc(8, 255), c])),
    /model\.safetensors/,
    /claims/,
  ],
  ['a header that is no JSON', () => model('model.safetensors', (c) => c.fill(0x7b, 8, 20)), /model\.safetensors/, /not valid JSON/],
  [
    'overlapping tensors',
    () => weights((h) => void (h[norm].data_offsets = h[norm].data_offsets.map((offset) => offset - 8))),
    /model\.safetensors/,
    /overlaps/,
  ],
  ['a negative offset', () => weights((h) => void (h[norm].data_offsets[0] = -8)), /model\.safetensors/, /do not fit the file/],
  ['an offset beyond the end', () => weights((h) => void (h[norm].data_offsets[1] += 1e9)), /model\.safetensors/, /do not fit the file/],
  ['an unknown dtype', () => weights((h) => void (h[norm].dtype = 'F33')), /model\.safetensors/, /"F33" is unknown/],
  ['integers for weights', () => weights((h) => void (h[norm].dtype = 'I32')), /./, /I32/],
  ['a shape that does not fit its bytes', () => weights((h) => void (h[norm].shape = [49])), /model\.safetensors/, /holds 192 bytes/],
  ['a tensor of another shape', () => weights((h) => void (h[norm].shape = [2, 24])), /model\.norm\.weight/, /shape/],
  [
    'a tensor that is missing',
    () => weights(({ [norm]: moved, ...rest }) => ({ ...rest, 'model.nrm.weight': moved })),
    /model\.norm\.weight/,
    /missing/,
  ],
  [
    'a shard that is missing',
    () => {
      const args = model('config.json', (c) => c);
      rmSync(at('wrong/model.safetensors'));
      writeFileSync(at('wrong/model.safetensors.index.json'), '{"weight_map":{"a":"s.safetensors"}}');
      return args;
    },
    /index\.json/,
    /s\.safetensors is missing/,
  ],
  [
    'an index that climbs out',
    () => {
      const args = model('config.json', (c) => c);
      rmSync(at('wrong/model.safetensors'));
      writeFileSync(at('wrong/model.safetensors.index.json'), '{"weight_map":{"a":"../model/model.safetensors"}}');
      return args;
    },
    /index\.json/,
    /\.\.\/model/,
  ],
  // GGUF.
  [
    'another file named .gguf',
    () => gguf(Buffer.from('not a model, and long enough to be read')),
    /wrong\.gguf/,
    /does not begin with "GGUF"/,
  ],
  ['a false count of tensors', () => gguf(new GgufBuilder().counts(2n ** 60n, 0n).build()), /wrong\.gguf/, /claims 11529215046\d+ tensors/],
  ['a false count of pairs', () => gguf(new GgufBuilder().counts(0n, 1000n).build()), /wrong\.gguf/, /claims 1000 key-value pairs/],
  [
    'a string longer than the file',
    () => gguf(new GgufBuilder().pair('k', 8, new Uint8Array(8).fill(63)).build()),
    /wrong\.gguf/,
    /needs \d+ bytes/,
  ],
  ['an alignment of 33', () => gguf(new GgufBuilder().u32('general.alignment', 33).build()), /wrong\.gguf/, /is 33/],
  [
    'overlapping GGUF tensors',
    () => gguf(new GgufBuilder().tensor('a', [16n], types.F32, 0n).tensor('b', [16n], types.F32, 32n).data(128).build()),
    /wrong\.gguf/,
    /overlaps/,
  ],
  ['a GGUF cut short', () => gguf(tinyLlama().subarray(0, -40)), /wrong\.gguf/, /ends at byte/],
  ['a GGUF of another architecture', () => gguf(new GgufBuilder().string('general.architecture', 'mamba').build()), /wrong\.gguf/, /mamba/],
  // The model's JSON files and its template.
  ['config.json broken', () => model('config.json', () => '{"model_type": "llama",}'), /config\.json:1:24/, /a key in double quotes/],
  [
    'config.json of a hundred thousand brackets',
    () => model('config.json', () => '['.repeat(100_000)),
    /config\.json:1:101/,
    /nested deeper/,
  ],
  ['an unknown architecture', () => json('config.json', (c) => void (c.model_type = 'rwkv')), /config\.json/, /rwkv/],
  ['heads that do not divide', () => json('config.json', (c) => void (c.num_key_value_heads = 4)), /config\.json/, /num_key_value_heads/],
  ['a size that is text', () => json('config.json', (c) => void (c.hidden_size = '48')), /config\.json/, /hidden_size/],
  ['tokenizer.json broken', () => model('tokenizer.json', () => '{'), /tokenizer\.json:1:2/, /not valid JSON/],
  ['a vocabulary larger than the model', () => json('config.json', (c) => void (c.vocab_size = 40)), /./, /vocab|token|shape/],
  ['a template that is no Jinja', () => template('{% for m in messages %}'), /chat template/, /line 1: a block does not end/],
  [
    'a template that never ends',
    () => template('{% for a in range(100000) %}{% for b in range(100000) %}{{ a }}{% endfor %}{% endfor %}'),
    /./,
    /./,
  ],
  ['a template that raises', () => template("{{ raise_exception('no system here') }}"), /train\.jsonl:1/, /no system here/],
  // Recipes.
  ['YAML that is none', () => recipe(`${settings}lora_alpha: [1,\n`), /wrong\.yaml:\d+:\d+/, /./],
  [
    'an alias bomb',
    () =>
      recipe(
        `${settings}a: &a ` +
          `[x,x,x,x,x,x,x,x,x]\n${'bcdefghi'.replace(/./g, (n, i) => `${n}: &${n} [${Array(9).fill(`*${'abcdefghi'[i]}`)}]\n`)}`,
      ),
    /wrong\.yaml/,
    /./,
  ],
  ['a key twice', () => recipe(`${settings}seed: 1\nseed: 2\n`), /wrong\.yaml:9:1/, /./],
  ['a rank of −1', () => recipe(settings.replace('lora_r: 4', 'lora_r: -1')), /wrong\.yaml:6:9/, /./],
  ['a recipe that is a list', () => recipe('- base_model: model\n'), /wrong\.yaml/, /./],
  ['an empty recipe', () => recipe(''), /wrong\.yaml/, /./],
  ['targets that match nothing', () => recipe(`${settings}lora_target_modules: [query_key_value]\n`), /./, /query_key_value/],
  // Data.
  [
    'JSONL with a broken line',
    () => data(`${chat({ role: 'user', content: 'a' }, { role: 'assistant', content: 'b' })}{"messages": [}\n`),
    /wrong\.jsonl:2:15/,
    /not valid JSON/,
  ],
  ['a row that is a number', () => data('5\n'), /wrong\.jsonl:1/, /./],
  ['an empty file', () => data(''), /wrong\.jsonl/, /./],
  [
    'content that is a number',
    () => data(chat({ role: 'user', content: 7 }, { role: 'assistant', content: 'b' })),
    /wrong\.jsonl:1/,
    /content/,
  ],
  ['nothing to learn', () => data(chat({ role: 'user', content: 'a' })), /wrong\.jsonl/, /./],
  ['bytes that are no text', () => data(new Uint8Array([0x7b, 0xff, 0xfe, 0x7d, 10])), /wrong\.jsonl/, /UTF-8/],
  ['JSON that is no list of rows', () => data('{"a": 1}', 'wrong.json'), /wrong\.json/, /./],
];

test.each(cases)('%s', async (name, prepare, place, problem) => {
  rmSync(at('wrong.yaml'), { force: true });
  const overrides = prepare();
  const file = readdirSync(folder).includes('wrong.yaml') ? 'wrong.yaml' : 'recipe.yaml';
  const { code, out, err } = await lowrank(['train', at(file), ...overrides, '--overwrite', '--json']);
  expect(code, `${name}: ${err}`).toBe(1);
  const { error } = JSON.parse(out);
  expect(error.place).toMatch(place);
  expect(error.problem).toMatch(problem);
  expect(error.mend).toBeTruthy();
  expect(fingerprint()).toEqual(earlier);
});

test('an adapter of another model is refused', async () => {
  const config = (change: object) => {
    rmSync(at('adapter'), { recursive: true, force: true });
    cpSync(at('run'), at('adapter'), { recursive: true });
    const path = at('adapter', 'adapter_config.json');
    writeFileSync(path, JSON.stringify({ ...JSON.parse(readFileSync(path, 'utf8')), ...change }));
  };
  const refused = async (): Promise<{ place: string; problem: string; mend: string }> => {
    const { code, out } = await lowrank(['merge', '--adapter', at('adapter'), '--model', at('model'), '--out', at('merged'), '--json']);
    expect(code).toBe(1);
    expect(readdirSync(folder)).not.toContain('merged');
    return JSON.parse(out).error;
  };
  config({ r: 5 });
  expect(await refused()).toMatchObject({ place: expect.stringMatching(/adapter_model\.safetensors/), mend: expect.stringMatching(/./) });
  config({ target_modules: ['q_proj'] });
  expect((await refused()).mend).toBeTruthy();
  config({ peft_type: 'IA3' });
  expect((await refused()).problem).toMatch(/IA3/);
  writeFileSync(at('adapter', 'adapter_config.json'), '{"r": 4');
  expect((await refused()).place).toMatch(/adapter_config\.json:1:8/);
  config({});
  const weightsPath = at('adapter', 'adapter_model.safetensors');
  writeFileSync(weightsPath, readFileSync(weightsPath).subarray(0, -4));
  expect((await refused()).place).toMatch(/adapter_model\.safetensors/);
});
