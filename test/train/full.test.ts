import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { FullTuner } from '../../src/adapters/full.js';
import type { Backend } from '../../src/core/backend.js';
import { scope } from '../../src/core/scope.js';
import { Gradients } from '../../src/core/tape.js';
import { type Tensor, zeros } from '../../src/core/tensor.js';
import { readRows } from '../../src/data/rows.js';
import { writeModel } from '../../src/io/model-folder.js';
import { localFolder } from '../../src/io/node/folder.js';
import { readSafetensors } from '../../src/io/safetensors.js';
import { loadModel } from '../../src/models/load.js';
import { openTextCodec } from '../../src/models/text-model.js';
import type { CausalLM } from '../../src/nn/model.js';
import { heldBatches, prepareData } from '../../src/runs/data.js';
import { openModel } from '../../src/runs/node.js';
import { parseRecipe, type Recipe } from '../../src/runs/recipe.js';
import { type TrainInputs, train } from '../../src/runs/train.js';
import type { LabelledTokens } from '../../src/train/batch.js';
import { accumulateGradients, evaluateLoss } from '../../src/train/step.js';
import { Random } from '../../src/util/philox.js';
import { openBest, testNative } from '../helpers/native.js';
import { tinyLlama } from '../helpers/tiny-llama.js';
import { rows, tinyConfig, writeTinyModel } from '../helpers/tiny-model.js';

const root = mkdtempSync(join(tmpdir(), 'lowrank-full-'));
const at = (...names: string[]) => join(root, ...names);
let backend: Backend;
beforeAll(async () => {
  backend = await openBest();
  await writeTinyModel(at('tied'));
  await writeTinyModel(at('untied'), { tie_word_embeddings: false, attention_bias: true, mlp_bias: true }, 'BF16');
  writeFileSync(at('untied', 'generation_config.json'), JSON.stringify({ temperature: 0.7, eos_token_id: 3 }));
});
afterAll(async () => {
  await backend.close();
  rmSync(root, { recursive: true, force: true });
});

describe('the gradients of all weights', () => {
  const config = { ...tinyConfig, hidden_size: 12, intermediate_size: 16, num_attention_heads: 3, num_key_value_heads: 1, vocab_size: 19 };
  // Two packed examples; tokens repeat, some positions are not supervised.
  const batch: LabelledTokens = {
    inputIds: Int32Array.of(3, 5, 3, 18, 0, 7, 7, 2),
    labels: Int32Array.of(5, 3, -100, 1, 7, -100, 2, 9),
    positions: Int32Array.of(0, 1, 2, 3, 0, 1, 2, 3),
    segments: Int32Array.of(0, 4, 0, 4, 4, 8, 4, 8),
  };

  async function gradientsOf(model: CausalLM, tuner: FullTuner, batches = [batch], recompute = false) {
    const sums = new Gradients();
    const lossSum = zeros(backend, [1], 'f32');
    for (const one of batches) scope(() => accumulateGradients(model, one, { recompute }, { scale: 1 / 6, gradients: sums, lossSum }));
    const gradients = new Map<string, Float32Array>();
    for (const [name, tensor] of tuner.parameters()) gradients.set(name, await sums.get(tensor)!.toFloat32());
    sums.clear();
    return gradients;
  }

  const forms: [string, Record<string, unknown>][] = [
    ['a tied head', {}],
    ['an own head and biases', { tie_word_embeddings: false, attention_bias: true, mlp_bias: true }],
  ];

  test.each(forms)('with %s they are those of finite differences', async (_, more) => {
    const model = tinyLlama(backend, { ...config, ...more });
    const tuner = new FullTuner(model);
    const gradients = await gradientsOf(model, tuner);
    const random = new Random(3, 0);
    const move = (tensor: Tensor, values: Float32Array) => tensor.write(new Uint8Array(values.buffer.slice(0)));
    expect(gradients.size).toBe(more.attention_bias ? 3 + 2 * (9 + 7) : 2 + 2 * 9);
    for (const [name, tensor] of tuner.parameters()) {
      const gradient = gradients.get(name)!;
      const start = (await tensor.toFloat32()).slice();
      // Along the gradient's own signs, shaken: the sum is far from 0 and every element counts.
      const direction = gradient.map((g) => Math.sign(g) * (0.5 + random.next()));
      const eps = 1e-3;
      const losses: number[] = [];
      for (const sign of [1, -1]) {
        move(
          tensor,
          start.map((x, i) => x + sign * eps * direction[i]),
        );
        losses.push((await evaluateLoss(model, [batch])).loss);
      }
      move(tensor, start);
      const expected = gradient.reduce((sum, g, i) => sum + g * direction[i], 0);
      const found = (losses[0] - losses[1]) / (2 * eps);
      // The losses are near 3 in f32: their difference is known to about 5e-7 / 2e-3.
      expect(Math.abs(found - expected), `${name}: ${found} for ${expected}`).toBeLessThan(0.01 * Math.abs(expected) + 5e-4);
    }
    tuner.dispose();
  });

  test.each(forms)('with %s recomputation changes no bit, and micro-batches nothing but rounding', async (_, more) => {
    const model = tinyLlama(backend, { ...config, ...more });
    const tuner = new FullTuner(model);
    const whole = await gradientsOf(model, tuner);
    expect(await gradientsOf(model, tuner, [batch], true)).toEqual(whole);
    const half = (start: number): LabelledTokens => ({
      inputIds: batch.inputIds.slice(start, start + 4),
      labels: batch.labels.slice(start, start + 4),
      positions: batch.positions.slice(start, start + 4),
      segments: Int32Array.of(0, 4, 0, 4),
    });
    const parts = await gradientsOf(model, tuner, [half(0), half(4)]);
    for (const [name, gradient] of whole) {
      const largest = gradient.reduce((max, g) => Math.max(max, Math.abs(g)), 0);
      gradient.forEach((g, i) => {
        expect(Math.abs(parts.get(name)![i] - g), name).toBeLessThan(1e-5 * largest);
      });
    }
    tuner.dispose();
  });
});

function recipeOf(name: string, base: string, ...overrides: string[]): Recipe {
  const lines = ['datasets: [train.jsonl]', 'micro_batch_size: 2', 'gradient_accumulation_steps: 2', 'num_epochs: 2', 'save_steps: 4'];
  const more = ['learning_rate: 0.003', 'warmup_ratio: 0.2', 'weight_decay: 0.1'];
  return parseRecipe([`base_model: ${base}`, 'adapter: full', `output_dir: ${at(name)}`, ...lines, ...more].join('\n'), name, overrides);
}

/** Trains a base from its own file, as one process does. */
async function run(name: string, base: string, overrides: string[] = [], inputs: Partial<TrainInputs> = {}, trainable = true) {
  const recipe = recipeOf(name, base, ...overrides);
  const source = await openModel(at(base));
  const loaded = await loadModel(source, backend, { precision: recipe.bf16 === false ? 'fp32' : 'bf16', trainable });
  try {
    const codec = openTextCodec(source);
    const read = async (file: string, seed: number, n: number) => [
      {
        dataset: { path: file },
        rows: await readRows(
          rows(n, seed)
            .map((row) => JSON.stringify(row))
            .join('\n'),
          file,
        ),
      },
    ];
    const data = await prepareData(recipe, codec, await read('train.jsonl', 1, 16), await read('test.jsonl', 2, 5));
    const losses: number[] = [];
    const folder = localFolder(recipe.output_dir);
    const onEvent: TrainInputs['onEvent'] = (event) => {
      if (event.type === 'step') losses.push(event.record.loss);
      inputs.onEvent?.(event);
    };
    const text = { ...codec, model: loaded.model };
    const { tuner, result } = await train({ recipe, source, text, data, folder, ...inputs, onEvent });
    const count = tuner.count();
    const held = await evaluateLoss(loaded.model, heldBatches(recipe, data));
    tuner.dispose();
    return { recipe, data, result, losses, folder, count, held: held.loss };
  } finally {
    loaded.dispose();
    await source.checkpoint.close();
  }
}

const weights = (...names: string[]) => readFileSync(at(...names, 'model.safetensors'));

describe('a run', () => {
  test.each(['tied', 'untied'])('of a model with %s head learns and leaves a model that can be loaded', async (base) => {
    const { losses, result, count, held, recipe, data } = await run(`${base}-plain`, base);
    expect(losses).toHaveLength(8);
    expect(losses[7]).toBeLessThan(0.9 * losses[0]);
    expect(result.model_dir).toBe(at(`${base}-plain`));
    expect(result.adapter_dir).toBeUndefined();
    expect(count.trainable).toBe(count.all);
    const files = [
      'README.md',
      'config.json',
      'generation_config.json',
      'lowrank.json',
      'model.safetensors',
      'tokenizer.json',
      'tokenizer_config.json',
    ];
    expect(readdirSync(at(`${base}-plain`)).sort()).toEqual(
      [...files, 'checkpoint-4', 'checkpoint-8', 'trainer_log.jsonl', 'training_args.yaml'].sort(),
    );
    const config = JSON.parse(readFileSync(at(`${base}-plain`, 'config.json'), 'utf8'));
    expect(config).toMatchObject({ dtype: base === 'tied' ? 'float32' : 'bfloat16', tie_word_embeddings: base === 'tied' });
    const written = await openModel(at(`${base}-plain`));
    expect(new Set([...written.checkpoint.tensors.values()].map(({ dtype }) => dtype))).toEqual(
      new Set([base === 'tied' ? 'F32' : 'BF16']),
    );
    // The source's own ends, the tokenizer's and the one that was supervised, <|im_end|>.
    expect(written.generationConfig).toEqual(base === 'tied' ? { eos_token_id: 2 } : { temperature: 0.7, eos_token_id: [3, 2] });
    const { model, dispose } = await loadModel(written, backend, { precision: 'bf16' });
    const again = await evaluateLoss(model, heldBatches(recipe, data));
    // In bf16 the products round the f32 weights as the file does; only norms and biases lose something.
    expect(Math.abs(again.loss / held - 1)).toBeLessThan(base === 'tied' ? 1e-7 : 1e-2);
    dispose();
    await written.checkpoint.close();
  });

  test.each([
    ['fp32', ['bf16=false']],
    ['bf16', []],
    ['checkpointed bf16', ['gradient_checkpointing=true']],
    ['adamw_bnb_8bit', ['optimizer=adamw_bnb_8bit']],
    ['lion_8bit', ['optimizer=lion_8bit', 'learning_rate=0.0003']],
    ['adafactor', ['optimizer=adafactor']],
    ['paged_adamw_8bit', ['optimizer=paged_adamw_8bit']],
    ['sgd', ['optimizer=sgd']],
  ])('resumes bit for bit: %s', async (name, overrides) => {
    const whole = await run(`${name}-whole`, 'untied', overrides);
    const resume = whole.folder.folder('checkpoint-4');
    const rest = await run(`${name}-rest`, 'untied', overrides, { resume });
    expect(rest.losses).toEqual(whole.losses.slice(4));
    // The last checkpoint holds every weight in f32.
    expect(weights(`${name}-rest`, 'checkpoint-8').equals(weights(`${name}-whole`, 'checkpoint-8'))).toBe(true);
    expect(weights(`${name}-rest`).equals(weights(`${name}-whole`))).toBe(true);
  });

  test('an interrupted run saves a whole model and goes on', async () => {
    const controller = new AbortController();
    const onEvent: TrainInputs['onEvent'] = (event) => event.type === 'step' && event.record.step === 3 && controller.abort();
    const first = await run('stopped', 'tied', [], { signal: controller.signal, onEvent });
    expect(first.result).toMatchObject({ steps: 3, interrupted: true });
    await run('stopped', 'tied', [], { resume: first.folder.folder('checkpoint-3') });
    await run('unstopped', 'tied');
    expect(weights('stopped').equals(weights('unstopped'))).toBe(true);
  });

  test('weight decay spares norms and biases', async () => {
    // A gradient of 0 everywhere is what clipping to nearly nothing leaves for SGD: only the decay moves a weight.
    await run('decayed', 'untied', ['optimizer=sgd', 'max_steps=1', 'warmup_ratio=0', 'max_grad_norm=1e-30', 'bf16=false']);
    const source = await openModel(at('untied'));
    const after = await readSafetensors(await localFolder(at('decayed', 'checkpoint-1')).open('model.safetensors'));
    for (const [name, tensor] of after.tensors) {
      const [was, is] = await Promise.all([source.checkpoint.tensors.get(name)!, tensor].map((stored) => stored.readAs('f32')));
      const same = Buffer.from(was).equals(Buffer.from(is));
      expect(same, name).toBe(/norm|bias/.test(name));
    }
    await after.close();
    await source.checkpoint.close();
  });

  test('a written config.json says what the weights beside it are', async () => {
    const source = await openModel(at('tied'));
    const tensors = [{ name: 'x', dtype: 'F16', shape: [2], data: async () => new Uint8Array(4) }];
    const config = {
      architectures: ['LlamaForCausalLM'],
      model_type: 'llama',
      eos_token_id: 2,
      torch_dtype: 'int8',
      quantization_config: { quant_method: 'bitsandbytes' },
    };
    await writeModel(localFolder(at('written')), { tensors, config }, source);
    const read = (name: string) => JSON.parse(readFileSync(at('written', name), 'utf8'));
    expect(read('config.json')).toEqual({ architectures: ['LlamaForCausalLM'], model_type: 'llama', eos_token_id: 2, dtype: 'float16' });
    expect(read('generation_config.json')).toEqual({ _from_model_config: true, eos_token_id: 2 });
    await source.checkpoint.close();
  });

  test('memory goes back to what it was', async () => {
    const before = { ...backend.memory().currentOf, workspace: 0 };
    await run('memory', 'tied', ['max_steps=1']);
    expect({ ...backend.memory().currentOf, workspace: 0 }).toEqual(before);
  });

  test('trained weights, gradients and states are all that is held: 16 bytes per parameter', async () => {
    const before = backend.memory().currentOf.weights;
    const { result, count } = await run('counted', 'untied', ['max_steps=1']);
    const { weights: held, gradients, optimizer } = result.memory.peakOf;
    expect([held - before, gradients, optimizer].map((n) => n / count.all)).toEqual([4, 4, 8]);
  });

  test('what an earlier run of another kind left is not mixed with the new model', async () => {
    const folder = localFolder(at('mixed'));
    for (const name of ['adapter_config.json', 'adapter_model.safetensors', 'model-00001-of-00002.safetensors', 'notes.txt'])
      await folder.writeText(name, '{}');
    await folder.writeText('model.safetensors.index.json', '{}');
    // Of whatever kind it is, nothing is overwritten unasked.
    await expect(run('mixed', 'tied', ['max_steps=1'])).rejects.toThrow(/mixed: holds an earlier run/);
    expect(readdirSync(at('mixed'))).toContain('adapter_config.json');
    await run('mixed', 'tied', ['max_steps=1'], { overwrite: true });
    const names = readdirSync(at('mixed')).filter((name) => /safetensors|adapter|notes/.test(name));
    expect(names.sort()).toEqual(['model.safetensors', 'notes.txt']);
  });

  testNative('refusal: weights of a mapped file', async () => {
    await expect(run('refused', 'tied', ['bf16=false'], {}, false)).rejects.toThrow(/mapped file[\s\S]*trainable: true/);
  });

  test('refusals: weights that cannot be trained, an adapter to begin with, another method’s checkpoint', async () => {
    await expect(run('refused', 'untied', [], {}, false)).rejects.toThrow(/is bf16[\s\S]*trainable: true/);
    await expect(run('refused', 'tied', [], { start: localFolder(at('tied-plain')) })).rejects.toThrow(/lora_model_dir is for adapters/);
    const resume = localFolder(at('tied-plain', 'checkpoint-4'));
    await expect(run('refused', 'tied', ['adapter=lora'], { resume })).rejects.toThrow(/adapter = "full", the recipe has "lora"/);
    expect(readdirSync(root)).not.toContain('refused');
  });
});
