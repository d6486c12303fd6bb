import { expect, test, vi } from 'vitest';
import { FullTuner } from '../../src/adapters/full.js';
import { createAdapter, parseAdapterConfig } from '../../src/adapters/registry.js';
import { ReferenceBackend } from '../../src/backends/reference/index.js';
import type { Gradients } from '../../src/core/tape.js';
import { concatenate } from '../../src/data/batches.js';
import type { Example, Sequence } from '../../src/data/prepare.js';
import type { Optimizer } from '../../src/optim/optimizer.js';
import { type LabelledTokens, supervisedRows } from '../../src/train/batch.js';
import { crossEntropy } from '../../src/train/objectives/cross-entropy.js';
import type { Objective } from '../../src/train/objectives/objective.js';
import { evaluateLoss, trainStep } from '../../src/train/step.js';
import { Random } from '../../src/util/philox.js';
import { tinyLlama } from '../helpers/tiny-llama.js';

const backend = new ReferenceBackend();
const config = {
  model_type: 'llama',
  hidden_size: 16,
  intermediate_size: 24,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  vocab_size: 30,
  tie_word_embeddings: true,
};
const beta = 0.5;

/**
 * Direct preference optimisation (Rafailov et al. 2023, eq. 7): −log σ(β·(log-ratio of the chosen − log-ratio of the rejected)), a term a
 * pair.
 */
const preference: Objective = {
  name: 'dpo',
  needsReference: true,
  count: ({ exampleOf = new Int32Array() }) => new Set(exampleOf).size,
  weigh(losses, { labels, segments, exampleOf = new Int32Array() }, reference = new Float32Array()) {
    const sequenceOf = Array.from(supervisedRows(labels), (row) => {
      let s = 0;
      while (segments[4 * s + 1] <= row) s++;
      return s;
    });
    const pairs = new Set(exampleOf).size;
    const sign = (s: number) => (s % 2 === 0 ? 1 : -1);
    const margins = new Float64Array(pairs);
    for (const [i, s] of sequenceOf.entries()) margins[exampleOf[s]] += beta * sign(s) * (reference[i] - losses[i]);
    const value = margins.reduce((sum, margin) => sum + Math.log1p(Math.exp(-margin)), 0);
    const slope = (margin: number) => beta / (1 + Math.exp(margin));
    return { value, weights: Float32Array.from(sequenceOf, (s) => sign(s) * slope(margins[exampleOf[s]])) };
  },
};

const random = new Random(3, 0);
function sequence(length: number, prompt: number): Sequence {
  const inputIds = Int32Array.from({ length }, () => Math.floor(30 * random.next()));
  return { inputIds, labels: inputIds.map((id, t) => (t < prompt ? -100 : id)) };
}
const pairs = [7, 5, 9].map((length, i): Example => ({ sequences: [sequence(length, 2), sequence(length - 1, 2)], row: `pair ${i}` }));

async function setUp() {
  const model = tinyLlama(backend, config);
  const adapter = await createAdapter(model, parseAdapterConfig({ r: 2, init_lora_weights: false }, 'test'), 1);
  return { model, adapter };
}

/** Keeps the gradients that a step would use instead of moving anything. */
class Recorder {
  steps = 0;
  readonly seen = new Map<unknown, Float32Array>();
  private readonly pending: Promise<unknown>[] = [];

  step(gradients: Gradients): void {
    for (const [parameter, gradient] of gradients)
      this.pending.push(gradient.toFloat32().then((values) => this.seen.set(parameter, values)));
  }

  done(): Promise<unknown> {
    return Promise.all(this.pending);
  }
}

const options = { learning_rate: 0, max_grad_norm: 0, gradient_checkpointing: false, seed: 1 };

async function lossAndGradients(tuner: Parameters<typeof trainStep>[0], batches: readonly LabelledTokens[], more: object) {
  const recorder = new Recorder();
  const { loss } = await trainStep(tuner, recorder as unknown as Optimizer, batches, { ...options, ...more });
  await recorder.done();
  return { loss, gradients: recorder.seen };
}

test.each([false, true])(
  'a preference loss has the gradient of its finite differences (gradient_checkpointing %s)',
  async (checkpointing) => {
    const { adapter } = await setUp();
    const more = { objective: preference, gradient_checkpointing: checkpointing };
    const batch = [concatenate(pairs)];
    const { gradients } = await lossAndGradients(adapter, batch, more);
    const [name, parameter] = [...adapter.parameters()][3];
    const values = await parameter.toFloat32();
    const at = async (index: number, change: number) => {
      const moved = values.slice();
      moved[index] += change;
      parameter.write(new Uint8Array(moved.buffer));
      return (await lossAndGradients(adapter, batch, more)).loss;
    };
    for (const index of [0, 5, 11]) {
      const slope = ((await at(index, 0.05)) - (await at(index, -0.05))) / 0.1;
      expect(gradients.get(parameter)![index], `${name} ${index}`).toBeCloseTo(slope, 3);
    }
  },
);

test('the reference is the base: an adapter that changes nothing is worth log 2, another one is not', async () => {
  const { model, adapter } = await setUp();
  const batch = [concatenate(pairs)];
  const loss = async () => (await lossAndGradients(adapter, batch, { objective: preference })).loss;
  expect(Math.abs((await loss()) - Math.LN2)).toBeGreaterThan(1e-3);
  for (const [name, tensor] of adapter.parameters()) if (name.includes('lora_B')) tensor.write(new Uint8Array(tensor.bytes));
  expect(await loss()).toBeCloseTo(Math.LN2, 6);
  expect([...model.modules.values()].some((module) => 'adapter' in module && module.adapter)).toBe(true);
});

test('how a step is split into micro-batches changes nothing but rounding', async () => {
  const { adapter } = await setUp();
  const whole = await lossAndGradients(adapter, [concatenate(pairs)], { objective: preference });
  const split = await lossAndGradients(adapter, [concatenate(pairs.slice(0, 1)), concatenate(pairs.slice(1))], { objective: preference });
  expect(split.loss).toBeCloseTo(whole.loss, 5);
  for (const [parameter, values] of whole.gradients)
    for (const [i, value] of split.gradients.get(parameter)!.entries()) expect(value).toBeCloseTo(values[i], 5);
});

test('losses as terms and losses weighed by one give the same step', async () => {
  const { adapter } = await setUp();
  const batch = [concatenate(pairs)];
  const weigh: Objective['weigh'] = (losses) => ({ value: losses.reduce((sum, x) => sum + x, 0), weights: losses.map(() => 1) });
  const plain = await lossAndGradients(adapter, batch, {});
  const weighed = await lossAndGradients(adapter, batch, { objective: { ...crossEntropy, weigh } });
  expect(weighed.loss).toBeCloseTo(plain.loss, 5);
  expect((await evaluateLoss(adapter.model, batch)).loss).toBeCloseTo(plain.loss, 5);
  for (const [parameter, values] of plain.gradients)
    for (const [i, value] of weighed.gradients.get(parameter)!.entries()) expect(value).toBeCloseTo(values[i], 6);
});

test('full fine-tuning has no base to compare with', async () => {
  const tuner = new FullTuner(tinyLlama(backend, config));
  await expect(lossAndGradients(tuner, [concatenate(pairs)], { objective: preference })).rejects.toThrow(/changes the base itself/);
});

test('no two passes of a run have the same dropout masks, though the last step of an epoch has fewer of them', async () => {
  const model = tinyLlama(backend, config);
  const adapter = await createAdapter(model, parseAdapterConfig({ r: 2, lora_dropout: 0.5 }, 'test'), 1);
  const run = vi.spyOn(backend, 'run');
  const recorder = new Recorder();
  for (const count of [3, 1, 3, 1]) {
    const batches = pairs.slice(0, count).map((pair) => concatenate([pair]));
    await trainStep(adapter, recorder as unknown as Optimizer, batches, { ...options, gradient_accumulation_steps: 3 });
    recorder.steps++;
  }
  const keys = run.mock.calls.flatMap(([op, , , attributes]) => (op === 'dropoutMask' ? JSON.stringify(attributes) : []));
  run.mockRestore();
  expect(keys.length).toBe(8 * adapter.layers.size);
  expect(new Set(keys).size).toBe(keys.length);
});

test('between micro-batches the event loop gets its turns', async () => {
  const { adapter } = await setUp();
  let clock = 0;
  const now = vi.spyOn(performance, 'now').mockImplementation(() => (clock += 30));
  let turns = 0;
  const timer = setInterval(() => turns++, 0);
  try {
    await trainStep(
      adapter,
      new Recorder() as unknown as Optimizer,
      pairs.map((pair) => concatenate([pair])),
      options,
    );
  } finally {
    clearInterval(timer);
    now.mockRestore();
  }
  expect(turns).toBeGreaterThanOrEqual(2);
});
