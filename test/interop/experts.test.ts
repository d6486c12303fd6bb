import { join, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Adapter } from '../../src/adapters/adapter.js';
import { openAdapter, saveAdapter } from '../../src/adapters/folder.js';
import { mergeAdapter } from '../../src/adapters/merge.js';
import { createAdapter, parseAdapterConfig } from '../../src/adapters/registry.js';
import { writeModel } from '../../src/io/model-folder.js';
import { localFolder } from '../../src/io/node/folder.js';
import type { CausalLM } from '../../src/nn/model.js';
import { Random } from '../../src/util/philox.js';
import { askPeers, distance, json, logitsOf, openBase, temporaryFolder, tensorsOf } from './peers.js';

const goldens = resolve('test/golden/models');
const examples = [
  [1, 5, 9, 130, 77, 3, 3, 42, 8, 101, 64],
  [159, 0, 17],
];

interface Case {
  base: string;
  config: Record<string, unknown>;
  /** The file has the names of checkpoints, as PEFT wrote them before transformers made one parameter of all experts. */
  converted?: boolean;
}

/** Experts as targets: as parameters in transformers' memory, and as linear layers in the checkpoint. */
const cases: Record<string, Case> = {
  'both parameters, and attention': {
    base: 'mixtral',
    config: { r: 3, target_modules: ['q_proj'], target_parameters: ['mlp.experts.gate_up_proj', 'mlp.experts.down_proj'] },
  },
  'one parameter alone': { base: 'qwen3-moe', config: { r: 2, target_parameters: ['experts.down_proj'] } },
  'the other one, of a rank of its own, with rslora': {
    base: 'qwen3-moe',
    config: { r: 2, target_parameters: ['gate_up_proj'], target_modules: [], rank_pattern: { '.*gate_up_proj': 5 }, use_rslora: true },
  },
  'router and head': {
    base: 'mixtral',
    config: { r: 2, target_modules: ['lm_head'], target_parameters: ['gate.weight'] },
    converted: true,
  },
  'linear layers of Mixtral': {
    base: 'mixtral',
    config: { r: 3, lora_alpha: 5, target_modules: ['w1', 'w2', 'w3', 'v_proj'] },
    converted: true,
  },
  'linear layers of Qwen': {
    base: 'qwen3-moe',
    config: { r: 2, target_modules: ['gate_proj', 'up_proj', 'down_proj', 'gate'] },
    converted: true,
  },
};
const names = Object.keys(cases);
const folder = temporaryFolder();
afterAll(() => folder.remove());
const place = (kind: string, i: number) => join(folder.path, `${kind}-${i}`);
const baseOf = (name: string) => join(goldens, cases[name].base);

/** An adapter of ours in which everything has moved. */
async function randomAdapter(model: CausalLM, config: Record<string, unknown>, seed: number): Promise<Adapter> {
  const adapter = await createAdapter(model, parseAdapterConfig(config, 'test'), seed);
  const random = new Random(seed, 1);
  for (const tensor of adapter.parameters().values()) {
    const values = (await tensor.toFloat32()).map((x) => x + 0.1 * random.normal());
    tensor.write(new Uint8Array(values.buffer));
  }
  return adapter;
}

describe('adapters of experts that PEFT wrote', () => {
  beforeAll(() =>
    askPeers(
      folder.path,
      names.map((name, i) => ({
        do: 'write_adapters',
        base: baseOf(name),
        examples,
        adapters: [{ folder: place('theirs', i), config: { ...cases[name].config } }],
      })),
    ),
  );

  test.each(names.map((name, i) => [name, i] as const))('%s', async (name, i) => {
    const { model, close } = await openBase(baseOf(name));
    const { adapter } = await openAdapter(localFolder(place('theirs', i)), model);
    const expected = await tensorsOf(join(place('theirs', i), 'expected.safetensors'));
    for (const [e, ids] of examples.entries())
      expect(distance(await logitsOf(model, ids), expected.get(`logits.${e}`)!)).toBeLessThan(1e-4);
    adapter.detach();
    expect(distance(await logitsOf(model, examples[0]), expected.get('logits.0')!)).toBeGreaterThan(1e-3);
    await close();
  });
});

describe('adapters of experts in PEFT and merged', () => {
  test('all load strictly and give our logits', async () => {
    const expected: Float32Array[][] = [];
    for (const [i, name] of names.entries()) {
      const { model, checkpoint, close } = await openBase(baseOf(name));
      const adapter = await randomAdapter(model, cases[name].config, i);
      expected.push([await logitsOf(model, examples[0]), await logitsOf(model, examples[1])]);
      await saveAdapter(localFolder(place('ours', i)), adapter, baseOf(name));
      const source = { name, config: json(join(baseOf(name), 'config.json')), tokenizer: { tokenizerJson: {}, tokenizerConfig: {} } };
      await writeModel(localFolder(place('merged', i)), mergeAdapter(adapter, checkpoint), source);
      await close();
    }
    await askPeers(
      folder.path,
      names.flatMap((name, i) => [
        {
          do: 'read_adapter',
          base: baseOf(name),
          folder: place('ours', i),
          examples,
          out: join(folder.path, `ours-${i}.safetensors`),
          converted: cases[name].converted ?? false,
        },
        { do: 'read_model', folder: place('merged', i), examples, out: join(folder.path, `merged-${i}.safetensors`) },
      ]),
    );
    for (const [i, name] of names.entries()) {
      for (const kind of ['ours', 'merged']) {
        const got = await tensorsOf(join(folder.path, `${kind}-${i}.safetensors`));
        for (const [e, logits] of expected[i].entries())
          expect(distance(logits, got.get(`logits.${e}`)!), `${name}: ${kind}`).toBeLessThan(1e-4);
      }
    }
  });
});
