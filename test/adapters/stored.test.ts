import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { openAdapter, saveAdapter } from '../../src/adapters/folder.js';
import { pythonPattern } from '../../src/adapters/pattern.js';
import { createAdapter, parseAdapterConfig } from '../../src/adapters/registry.js';
import { ReferenceBackend } from '../../src/backends/reference/index.js';
import { localFolder } from '../../src/io/node/folder.js';
import { encodeSafetensors } from '../../src/io/safetensors.js';
import { tinyLlama } from '../helpers/tiny-llama.js';

const root = mkdtempSync(join(tmpdir(), 'lowrank-stored-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));

const modelOf = (tied: boolean) =>
  tinyLlama(new ReferenceBackend(), {
    model_type: 'llama',
    hidden_size: 16,
    intermediate_size: 24,
    num_hidden_layers: 1,
    num_attention_heads: 2,
    num_key_value_heads: 2,
    vocab_size: 20,
    attention_bias: true,
    tie_word_embeddings: tied,
  });
const model = modelOf(false);
const prefix = 'base_model.model.';
const q = 'model.layers.0.self_attn.q_proj';
type Entries = Map<string, { shape: readonly number[]; values: Float32Array }>;

/** A folder with a new adapter's files, whose tensors `change` changes. */
async function folderWith(name: string, config: object, change: (tensors: Entries) => void, of = model) {
  const folder = localFolder(join(root, name));
  const adapter = await createAdapter(of, parseAdapterConfig({ r: 2, ...config }, 'test'), 1);
  await saveAdapter(folder, adapter, 'base');
  const tensors: Entries = new Map();
  for (const [key, tensor] of adapter.parameters()) tensors.set(key, { shape: tensor.shape, values: await tensor.toFloat32() });
  adapter.dispose();
  change(tensors);
  const entries = [...tensors].map(([key, { shape, values }]) => ({
    name: key,
    dtype: 'F32',
    shape,
    data: async () => new Uint8Array(values.slice().buffer),
  }));
  await folder.write('adapter_model.safetensors', encodeSafetensors(entries, { format: 'pt' }));
  return folder;
}
const weightOf = async (path: string, of = model) => {
  const { weight } = of.modules.get(path)!;
  return { shape: weight.shape, values: await weight.toFloat32() };
};

describe('tensors under other names', () => {
  test.each<[string, (name: string) => string]>([
    [
      'the adapter’s name in them',
      (name) => name.replace('lora_A.weight', 'lora_A.default.weight').replace('lora_B.weight', 'lora_B.mine.weight'),
    ],
    ['PEFT’s wrapper of saved modules', (name) => name.replace('model.norm.weight', 'model.norm.modules_to_save.default.weight')],
  ])('%s', async (_, rename) => {
    const folder = await folderWith('renamed', { modules_to_save: ['model.norm'] }, (tensors) => {
      for (const [name, tensor] of [...tensors]) {
        tensors.delete(name);
        tensors.set(rename(name), { ...tensor, values: tensor.values.fill(0.25) });
      }
    });
    const { adapter } = await openAdapter(folder, model);
    for (const tensor of adapter.parameters().values()) expect(new Set(await tensor.toFloat32())).toEqual(new Set([0.25]));
    adapter.dispose();
  });
});

describe('copies of the base’s weights', () => {
  test('that equal them say nothing', async () => {
    const head = await weightOf('lm_head');
    const folder = await folderWith('equal', { target_modules: ['q_proj', 'lm_head'] }, (tensors) => {
      tensors.set(`${prefix}lm_head.base_layer.weight`, head);
    });
    const { adapter } = await openAdapter(folder, model);
    expect(adapter.replacements).toEqual([]);
    expect([...adapter.tensors().keys()]).toEqual([...adapter.parameters().keys()]);
    adapter.dispose();
  });

  test.each([false, true])('that differ take their place, and are kept with the adapter; tied: %s', async (tied) => {
    const base = modelOf(tied);
    const before = base.modules.get('model.embed_tokens')!.weight;
    const moved = await weightOf('model.embed_tokens', base);
    moved.values[3] += 1;
    const folder = await folderWith('moved', {}, (tensors) => tensors.set(`${prefix}model.embed_tokens.weight`, moved), base);
    const { adapter } = await openAdapter(folder, base);
    const read = async (path: string) => Array.from((await weightOf(path, base)).values);
    expect(await read('model.embed_tokens')).toEqual(Array.from(moved.values));
    expect((await read('lm_head'))[3] === moved.values[3]).toBe(tied);
    expect([...adapter.parameters().keys()].some((name) => name.includes('embed'))).toBe(false);
    await saveAdapter(localFolder(join(root, 'again')), adapter, 'base');
    adapter.dispose();
    expect(base.modules.get('model.embed_tokens')!.weight).toBe(before);
    const { adapter: again } = await openAdapter(localFolder(join(root, 'again')), base);
    expect(await read('model.embed_tokens')).toEqual(Array.from(moved.values));
    again.dispose();
  });

  test('of another vocabulary are refused by its size', async () => {
    const folder = await folderWith('resized', {}, (tensors) =>
      tensors.set(`${prefix}lm_head.weight`, { shape: [23, 16], values: new Float32Array(23 * 16) }),
    );
    await expect(openAdapter(folder, model)).rejects.toThrow(
      /has shape \[23, 16\]\n.*vocabulary of this base has 20 entries, that of the adapter's 23\n.*resize_token_embeddings/,
    );
  });
});

describe('what does not fit is said for what it is', () => {
  const added = { shape: [2], values: new Float32Array(2) };
  test.each<[string, object, (tensors: Entries) => void, RegExp]>([
    [
      'a missing tensor',
      {},
      (tensors) => tensors.delete(`${prefix}${q}.lora_A.weight`),
      /1 of the adapter's \d+ tensors missing.*\n.*\n.*copy the adapter again/,
    ],
    [
      'a module that the configuration does not name',
      {},
      (tensors) => tensors.set(`${prefix}model.layers.0.mlp.up_proj.lora_A.weight`, added),
      /unexpected.*\n.*which are not "model\.layers\.0\.mlp\.up_proj"\n.*adapter_config\.json and the tensors from the same save/,
    ],
    [
      'DoRA',
      {},
      (tensors) => tensors.set(`${prefix}${q}.lora_magnitude_vector`, added),
      /lora_magnitude_vector is not supported\n.*merge the adapter/,
    ],
    [
      'an adapted embedding that the configuration does not name',
      {},
      (tensors) => tensors.set(`${prefix}model.embed_tokens.lora_embedding_A`, added),
      /unexpected.*\n.*which are not "model\.embed_tokens"\n.*adapter_config\.json and the tensors from the same save/,
    ],
    [
      'an embedding of another rank',
      { target_modules: ['q_proj', 'embed_tokens'] },
      (tensors) => tensors.set(`${prefix}model.embed_tokens.lora_embedding_A`, { shape: [3, 20], values: new Float32Array(60) }),
      /has shape \[3, 20\]\n.*the configuration says rank 2\n.*from the same save/,
    ],
    [
      'another rank',
      {},
      (tensors) => tensors.set(`${prefix}${q}.lora_A.weight`, { shape: [3, 16], values: new Float32Array(48) }),
      /has shape \[3, 16\]\n.*the configuration says rank 2\n.*from the same save/,
    ],
  ])('%s', async (name, config, change, message) => {
    const folder = await folderWith(name, config, change);
    await expect(openAdapter(folder, model)).rejects.toThrow(message);
    await expect(openAdapter(folder, model)).rejects.not.toThrow(/base model that it was trained on/);
  });

  test.each<[string, (tensors: Entries) => void, RegExp]>([
    [
      'more layers',
      (tensors) => tensors.set(`${prefix}model.layers.7.mlp.up_proj.lora_A.weight`, added),
      /has no "model\.layers\.7\.mlp\.up_proj"/,
    ],
    [
      'another width',
      (tensors) => tensors.set(`${prefix}${q}.lora_A.weight`, { shape: [2, 24], values: new Float32Array(48) }),
      /has shape \[2, 24\]\n.*\[2, 16\] for this base model/,
    ],
  ])('another base: %s', async (name, change, message) => {
    const folder = await folderWith(name, {}, change);
    await expect(openAdapter(folder, model)).rejects.toThrow(message);
    await expect(openAdapter(folder, model)).rejects.toThrow(/use the adapter with the base model that it was trained on/);
  });

  test('a pickle is named, with the line that converts it', async () => {
    const folder = await folderWith('pickled', {}, () => {});
    rmSync(join(root, 'pickled/adapter_model.safetensors'));
    writeFileSync(join(root, 'pickled/adapter_model.bin'), '');
    await expect(openAdapter(folder, model)).rejects.toThrow(
      /pickled: the adapter is a pickle[\s\S]*torch\.load\('.*pickled\/adapter_model\.bin'.*'.*pickled\/adapter_model\.safetensors'/,
    );
  });

  test.each([
    ['use_dora', true],
    ['trainable_token_indices', [1]],
    ['lora_bias', true],
    ['init_lora_weights', 'pissa'],
  ])('%s is refused by its name', (key, value) => {
    expect(() => parseAdapterConfig({ [key]: value }, 'adapter_config.json')).toThrow(new RegExp(`adapter_config\\.json: ${key}: ${key}`));
  });

  test.each(['orthogonal', 'eva', 'mica'])('%s is no other adapter once it is trained', (init_lora_weights) => {
    expect(parseAdapterConfig({ init_lora_weights, eva_config: { rho: 2 } }, 'adapter_config.json')).toMatchObject({
      init_lora_weights: true,
    });
  });

  test('modules_to_save takes a module with all its parts', () => {
    const config = parseAdapterConfig({ modules_to_save: ['mlp'], target_modules: ['q_proj', 'up_proj'] }, 'adapter_config.json');
    return createAdapter(model, config, 1).then((adapter) => {
      expect([...adapter.parameters().keys()].filter((name) => !name.includes('lora'))).toEqual(
        ['gate', 'up', 'down'].map((part) => `${prefix}model.layers.0.mlp.${part}_proj.weight`),
      );
      expect([...adapter.layers.keys()]).toEqual([q]);
      adapter.dispose();
    });
  });
});

test('a rank that no tensor of the file has is refused before memory is taken', async () => {
  const folder = await folderWith('rank', {}, () => {});
  const written = JSON.parse((await folder.readText('adapter_config.json'))!);
  await folder.writeText('adapter_config.json', JSON.stringify({ ...written, rank_pattern: { q_proj: 65535 } }));
  const before = model.backend.memory().peak;
  await expect(openAdapter(folder, model)).rejects.toThrow(/a rank of 65535\n.*at most 16/s);
  expect(model.backend.memory().peak).toBe(before);
});

describe('patterns are Python’s', () => {
  const path = 'model.layers.1.mlp.up_proj';
  test.each<[string, boolean]>([
    ['\\A.*up_proj\\Z', true],
    ['(?i).*UP_PROJ', true],
    ['.*UP_PROJ', false],
    ['(?x) .* \\. up_proj  # the first half', true],
    ['(?ix) .* [.] UP_PROJ', true],
    ['.*\\.(?P<kind>mlp)\\.up_proj(?#a comment)', true],
    ['.*[]p]_proj', true],
    ['.*\\.\\d{,2}\\.mlp.*', true],
    ['layers', false],
    // Flags of groups: as Python 3.13 answers.
    ['.*(?i:UP_PROJ)', true],
    ['(?i:MODEL).*UP_PROJ', false],
    ['(?i).*(?-i:UP)_proj', false],
    ['(?i).*(?-i:up)_PROJ', true],
    ['.*\\.(?i:[T-V]P_[^A-O]ROJ)', true],
    ['.*\\.(?i:[T-V]P_[^A-P]ROJ)', false],
    ['.*(?i:[\\w]+_PRO)j', true],
    ['(?i:.*[^\\d_]_P)roj', true],
    ['(?x: .* \\. up_ )proj', true],
    ['(?x: .* \\. ) up_proj', false],
    ['.*(?i:\\x55P_\\u0050roj)', true],
    ['(?i:model(?-i:\\.(?i:L)ayers)).*', true],
    ['(?i:model(?-i:\\.(?i:L)AYERS)).*', false],
    ['.*up_proj$', true],
  ])('%s', (pattern, fits) => {
    expect(pythonPattern(pattern, 'target_modules', (inner) => `^(?:${inner})$`).test(path)).toBe(fits);
  });

  test.each(['(?>a)b', 'a*+', '(a)?(?(1)b|c)', '(?L)a', '(a', 'a(?i)b', '(?z:a)', '(?i:a', '(?P<o>o)(?P=o)', '(o)\\1', '(a*)*'])(
    '%s is refused',
    (pattern) => {
      expect(() => pythonPattern(pattern, 'target_modules')).toThrow(/target_modules: .*: not a regular expression/);
    },
  );
});
