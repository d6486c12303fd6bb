import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Adapter } from '../../src/adapters/adapter.js';
import { openAdapter, saveAdapter } from '../../src/adapters/folder.js';
import { mergeAdapter } from '../../src/adapters/merge.js';
import { createAdapter, parseAdapterConfig } from '../../src/adapters/registry.js';
import { localFolder } from '../../src/io/node/folder.js';
import { encodeSafetensors } from '../../src/io/safetensors.js';
import type { CausalLM } from '../../src/nn/model.js';
import { Random } from '../../src/util/philox.js';
import { askPeers, distance, json, logitsOf, openBase, temporaryFolder, tensorsOf } from './peers.js';

const shape = {
  hidden_size: 48,
  intermediate_size: 80,
  num_hidden_layers: 2,
  num_attention_heads: 6,
  num_key_value_heads: 2,
  vocab_size: 160,
  max_position_embeddings: 64,
  attention_bias: true,
  initializer_range: 0.2,
};
const examples = [
  [1, 5, 9, 130, 77, 3, 3, 42, 8, 101, 64],
  [159, 0, 17],
];

/** Adapter configurations as users write them; each is tried in both directions. */
const configs: Record<string, Record<string, unknown>> = {
  'the defaults': {},
  'all-linear with rslora': { r: 4, lora_alpha: 6, target_modules: 'all-linear', use_rslora: true },
  'rank and alpha patterns': {
    r: 4,
    lora_alpha: 8,
    target_modules: ['q_proj', 'v_proj', 'down_proj'],
    rank_pattern: { 'layers.1.self_attn.q_proj': 7, '.*down_proj': 2 },
    alpha_pattern: { q_proj: 3, 'layers.0.mlp.down_proj': 20 },
  },
  modules_to_save: { r: 3, target_modules: ['q_proj', 'up_proj'], modules_to_save: ['lm_head', 'embed_tokens'] },
  'a regular expression': { r: 5, target_modules: '.*\\.(k_proj|gate_proj)' },
  'some layers, with exclusions': { r: 2, target_modules: ['q_proj', 'k_proj'], layers_to_transform: [1], exclude_modules: ['k_proj'] },
  'biases of the adapted layers': { r: 2, target_modules: ['q_proj', 'o_proj'], bias: 'lora_only' },
  'all biases': { r: 2, target_modules: ['v_proj'], bias: 'all' },
  'the embedding': { r: 3, lora_alpha: 5, target_modules: ['embed_tokens', 'v_proj'], rank_pattern: { embed_tokens: 4 } },
  'the head': { r: 2, target_modules: ['q_proj', 'lm_head'] },
  'modules with parts, and one whole': { r: 2, target_modules: ['q_proj', 'up_proj'], modules_to_save: ['layers.1.mlp', 'norm'] },
  'a pattern with flags and anchors': { r: 2, target_modules: '(?ix) \\A .* \\. (Q_PROJ | gate_proj)  # two of them\n \\Z' },
};
const names = Object.keys(configs);

/** What only PEFT writes, over a tied base where it says so. */
const peftOnly: Record<string, { config: Record<string, unknown>; tied?: boolean; save?: object; move?: string[] }> = {
  'the head of a tied base': { config: { r: 2, target_modules: ['q_proj', 'lm_head'] }, tied: true },
  'the embedding of a tied base': { config: { r: 2, target_modules: ['embed_tokens', 'q_proj'], lora_dropout: 0.1 }, tied: true },
  'embedding and head of a tied base': { config: { r: 2, target_modules: ['embed_tokens', 'lm_head'] }, tied: true },
  'an adapted embedding over another base': {
    config: { r: 2, target_modules: ['embed_tokens'] },
    move: ['embed_tokens.base_layer.weight'],
  },
  'copies of head and embedding': { config: { r: 2 }, save: { save_embedding_layers: true } },
  'copies of a tied base': { config: { r: 2 }, tied: true, save: { save_embedding_layers: true } },
  'a head and an embedding that are not the base’s': {
    config: { r: 2 },
    save: { save_embedding_layers: true },
    move: ['lm_head.weight', 'embed_tokens.weight'],
  },
  'an adapted head over another base': { config: { r: 2, target_modules: ['v_proj', 'lm_head'] }, move: ['lm_head.base_layer.weight'] },
  'a tied matrix that is not the base’s': {
    config: { r: 2 },
    tied: true,
    save: { save_embedding_layers: true },
    move: ['embed_tokens.weight'],
  },
  'all biases, and a module with one to save': { config: { r: 2, target_modules: ['q_proj'], bias: 'all', modules_to_save: ['o_proj'] } },
  'orthogonal matrices to begin with': { config: { r: 4, init_lora_weights: 'orthogonal' } },
  'EVA to begin with': { config: { r: 4, init_lora_weights: 'eva' } },
  'MiCA to begin with': { config: { r: 4, init_lora_weights: 'mica' } },
};
const peftNames = Object.keys(peftOnly);
const folder = temporaryFolder();
const bases = { untied: join(folder.path, 'untied'), tied: join(folder.path, 'tied') };
const theirs = (i: number) => join(folder.path, `theirs-${i}`);
const only = (i: number) => join(folder.path, `only-${i}`);

beforeAll(async () => {
  await askPeers(folder.path, [
    { do: 'write_base', folder: bases.untied, config: { ...shape, tie_word_embeddings: false } },
    { do: 'write_base', folder: bases.tied, config: { ...shape, tie_word_embeddings: true } },
    {
      do: 'write_adapters',
      base: bases.untied,
      examples,
      adapters: names.map((name, i) => ({ folder: theirs(i), config: configs[name] })),
    },
    ...[false, true].map((tied) => ({
      do: 'write_adapters',
      base: bases[tied ? 'tied' : 'untied'],
      examples,
      adapters: peftNames.flatMap((name, i) => {
        const { tied: wanted = false, ...adapter } = peftOnly[name];
        return wanted === tied ? [{ ...adapter, folder: only(i) }] : [];
      }),
    })),
  ]);
});
afterAll(() => folder.remove());

/** An adapter of ours in which everything that is trained has moved. */
async function randomAdapter(model: CausalLM, config: Record<string, unknown>, seed: number): Promise<Adapter> {
  const adapter = await createAdapter(model, parseAdapterConfig(config, 'test'), seed);
  const random = new Random(seed, 1);
  for (const tensor of adapter.parameters().values()) {
    const values = (await tensor.toFloat32()).map((x) => x + 0.05 * random.normal());
    tensor.write(new Uint8Array(values.buffer));
  }
  return adapter;
}

describe('adapters that PEFT wrote', () => {
  test.each<[string, string, string]>([
    ...names.map((name, i) => [name, theirs(i), bases.untied] as [string, string, string]),
    ...peftNames.map((name, i) => [name, only(i), peftOnly[name].tied ? bases.tied : bases.untied] as [string, string, string]),
  ])('%s', async (_, path, base) => {
    const { model, close } = await openBase(base);
    const { adapter } = await openAdapter(localFolder(path), model);
    const expected = await tensorsOf(join(path, 'expected.safetensors'));
    for (const [i, ids] of examples.entries())
      expect(distance(await logitsOf(model, ids), expected.get(`logits.${i}`)!)).toBeLessThan(1e-4);
    // The adapter does something, or else the comparison would say nothing.
    adapter.detach();
    expect(distance(await logitsOf(model, examples[0]), expected.get('logits.0')!)).toBeGreaterThan(1e-3);
    adapter.attach();
    // Written again it is the same, with what stands in the place of the base's weights.
    const again = join(folder.path, 'again');
    await saveAdapter(localFolder(again), adapter, base);
    adapter.dispose();
    const { adapter: reopened } = await openAdapter(localFolder(again), model);
    expect(distance(await logitsOf(model, examples[0]), expected.get('logits.0')!)).toBeLessThan(1e-4);
    reopened.dispose();
    await close();
  });
});

describe('adapters of ours in PEFT', () => {
  test('all load strictly and give our logits', async () => {
    const { model, close } = await openBase(bases.untied);
    const ours: Float32Array[][] = [];
    for (const [i, name] of names.entries()) {
      const adapter = await randomAdapter(model, configs[name], i + 1);
      await saveAdapter(localFolder(join(folder.path, `ours-${i}`)), adapter, bases.untied);
      ours.push([await logitsOf(model, examples[0]), await logitsOf(model, examples[1])]);
      adapter.dispose();
    }
    await close();
    const out = (i: number) => join(folder.path, `ours-${i}.safetensors`);
    await askPeers(
      folder.path,
      names.map((_, i) => ({ do: 'read_adapter', base: bases.untied, folder: join(folder.path, `ours-${i}`), examples, out: out(i) })),
    );
    for (const [i, name] of names.entries()) {
      const expected = await tensorsOf(out(i));
      for (const [j, logits] of ours[i].entries()) expect(distance(logits, expected.get(`logits.${j}`)!), name).toBeLessThan(1e-4);
    }
  });

  test('PEFT refuses an adapter that lacks a tensor, so the check above sees one', async () => {
    const { model, close } = await openBase(bases.untied);
    const adapter = await randomAdapter(model, {}, 1);
    const path = join(folder.path, 'incomplete');
    const place = localFolder(path);
    await saveAdapter(place, adapter, bases.untied);
    const [, ...tensors] = [...adapter.parameters()].map(([name, t]) => ({ name, dtype: 'F32', shape: t.shape, data: () => t.read() }));
    await place.write('adapter_model.safetensors', encodeSafetensors(tensors, { format: 'pt' }));
    await close();
    await expect(
      askPeers(folder.path, [{ do: 'read_adapter', base: bases.untied, folder: path, examples, out: `${path}.out` }]),
    ).rejects.toThrow(/missing/);
  });
});

describe('merged models in transformers', () => {
  test.each([
    ['untied', 'all-linear with rslora'],
    ['tied', 'all-linear with rslora'],
    ['untied', 'modules_to_save'],
    ['tied', 'modules_to_save'],
    ['untied', 'all biases'],
    ['untied', 'the embedding'],
    // PEFT's own merge of this one answers otherwise than its adapter: it adds the update to the head's matrix, too.
    ['tied', 'the embedding'],
  ] as const)('%s base, %s', async (base, name) => {
    const { model, checkpoint, close } = await openBase(bases[base]);
    const adapter = await randomAdapter(model, configs[name], 9);
    const live = [await logitsOf(model, examples[0]), await logitsOf(model, examples[1])];
    const path = join(folder.path, `merged-${base}-${names.indexOf(name)}`);
    mkdirSync(path);
    const { tensors, config } = mergeAdapter(adapter, checkpoint);
    await localFolder(path).write('model.safetensors', encodeSafetensors(tensors, { format: 'pt' }));
    writeFileSync(join(path, 'config.json'), JSON.stringify(config));
    adapter.dispose();
    await close();
    const out = `${path}.safetensors`;
    await askPeers(folder.path, [{ do: 'read_model', folder: path, examples, out }]);
    const expected = await tensorsOf(out);
    for (const [i, logits] of live.entries()) expect(distance(logits, expected.get(`logits.${i}`)!)).toBeLessThan(1e-4);
  });
});

test('what PEFT’s adapter_config.json has and ours lacks says nothing', async () => {
  const { model, close } = await openBase(bases.untied);
  const adapter = await createAdapter(model, parseAdapterConfig(configs['the defaults'], 'test'), 1);
  const path = join(folder.path, 'keys');
  await saveAdapter(localFolder(path), adapter, bases.untied);
  await close();
  const ours = json(join(path, 'adapter_config.json'));
  const peft: Record<string, unknown> = json(join(theirs(0), 'adapter_config.json'));
  const lacking = Object.entries(peft).filter(([key, value]) => !(key in ours) && value !== null && value !== false);
  expect(lacking.map(([key]) => key)).toEqual(['peft_version']);
});
