import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { openAdapter } from '../../src/adapters/folder.js';
import type { Backend, Span } from '../../src/core/backend.js';
import { readRows } from '../../src/data/rows.js';
import type { Folder } from '../../src/io/folder.js';
import type { ModelSource } from '../../src/io/model-source.js';
import { localFolder } from '../../src/io/node/folder.js';
import { readSafetensors } from '../../src/io/safetensors.js';
import { type LoadedModel, loadModel } from '../../src/models/load.js';
import { openTextCodec, type TextModel } from '../../src/models/text-model.js';
import { readContract } from '../../src/runs/contract.js';
import { heldBatches, prepareData, type RunData } from '../../src/runs/data.js';
import type { TrainEvent } from '../../src/runs/events.js';
import { openModel } from '../../src/runs/node.js';
import { parseRecipe, type Recipe } from '../../src/runs/recipe.js';
import { type TrainInputs, train } from '../../src/runs/train.js';
import { evaluateLoss } from '../../src/train/step.js';
import { openBest, testNative } from '../helpers/native.js';
import { rows, writeTinyModel } from '../helpers/tiny-model.js';

const root = mkdtempSync(join(tmpdir(), 'lowrank-run-'));
let backend: Backend;
let source: ModelSource;
let loaded: LoadedModel;
let text: TextModel;
beforeAll(async () => {
  backend = await openBest();
  source = await openModel(await writeTinyModel(join(root, 'model')));
  loaded = await loadModel(source, backend, { precision: 'fp32' });
  text = { ...openTextCodec(source), model: loaded.model };
});
afterAll(async () => {
  loaded.dispose();
  await backend.close();
  await source.checkpoint.close();
  rmSync(root, { recursive: true, force: true });
});

function recipeOf(name: string, ...overrides: string[]): Recipe {
  const lines = [
    'base_model: model',
    'datasets: [train.jsonl]',
    `output_dir: ${join(root, name)}`,
    'micro_batch_size: 4',
    'num_epochs: 3',
    'lora_r: 4',
  ];
  return parseRecipe([...lines, 'learning_rate: 0.01', 'warmup_ratio: 0.2', 'save_steps: 4'].join('\n'), name, overrides);
}

async function dataOf(recipe: Recipe, count = 20): Promise<RunData> {
  const asText = (seed: number, n: number) =>
    rows(n, seed)
      .map((row) => JSON.stringify(row))
      .join('\n');
  const read = async (name: string, seed: number, n: number) => [{ dataset: { path: name }, rows: await readRows(asText(seed, n), name) }];
  return prepareData(recipe, text, await read('train.jsonl', 1, count), await read('test.jsonl', 2, 5));
}

async function run(name: string, overrides: string[] = [], inputs: Partial<TrainInputs> = {}) {
  const recipe = recipeOf(name, ...overrides);
  const events: TrainEvent[] = [];
  const folder = localFolder(recipe.output_dir);
  const onEvent = (event: TrainEvent) => {
    events.push(event);
    inputs.onEvent?.(event);
  };
  const { tuner, result } = await train({ recipe, source, text, data: await dataOf(recipe), folder, ...inputs, onEvent });
  tuner.dispose();
  return { recipe, result, events, folder, losses: events.flatMap((event) => (event.type === 'step' ? [event.record.loss] : [])) };
}

const adapterBytes = (name: string) => readFileSync(join(root, name, 'adapter_model.safetensors'));
const log = (name: string) =>
  readFileSync(join(root, name, 'trainer_log.jsonl'), 'utf8')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));

/** The files of a result, without what tells the time. */
function resultOf(name: string): Record<string, string> {
  const files = readdirSync(join(root, name), { withFileTypes: true }).filter((entry) => entry.isFile());
  const read = (file: string) => {
    const text = readFileSync(join(root, name, file), 'latin1');
    if (file === 'lowrank.json') return text.replace(/"clock": "[^"]*"/, '');
    return file === 'trainer_log.jsonl' ? text.replace(/"(elapsed_time|remaining_time|throughput)":[^,]*,/g, '') : text;
  };
  return Object.fromEntries(files.map((file) => [file.name, read(file.name)]));
}

async function dtypesOf(folder: Folder, name: string): Promise<Set<string>> {
  const checkpoint = await readSafetensors(await folder.open(name));
  await checkpoint.close();
  return new Set([...checkpoint.tensors.values()].map(({ dtype }) => dtype));
}

describe('a run', () => {
  test('learns, and leaves adapter, tokenizer, card, recipe, log and checkpoints', async () => {
    const { result, losses, events } = await run('plain');
    expect(losses).toHaveLength(15);
    expect(losses[14]).toBeLessThan(0.9 * losses[0]);
    expect(result).toMatchObject({ steps: 15, total_steps: 15, interrupted: false, loss: losses[14] });
    const files = ['README.md', 'adapter_config.json', 'adapter_model.safetensors', 'chat_template.jinja', 'tokenizer.json'];
    const all = [
      ...files,
      'checkpoint-4',
      'checkpoint-8',
      'checkpoint-12',
      'checkpoint-15',
      'lowrank.json',
      'tokenizer_config.json',
      'trainer_log.jsonl',
      'training_args.yaml',
    ];
    // The model's template lies in its tokenizer_config.json.
    expect(readdirSync(join(root, 'plain')).sort()).toEqual(all.filter((file) => file !== 'chat_template.jinja').sort());
    expect(
      log('plain')
        .filter((line) => 'loss' in line)
        .map((line) => line.loss),
    ).toEqual(losses);
    expect(log('plain')[2]).toMatchObject({ current_steps: 3, total_steps: 15, percentage: 20 });
    const evaluations = events.flatMap((event) => (event.type === 'evaluation' ? [event] : []));
    expect(evaluations.map(({ step }) => step)).toEqual([5, 10, 15]);
    expect(evaluations[2].loss).toBeLessThan(evaluations[0].loss);
  });

  test('equal seeds and threads give bit-identical adapters, another seed another one', async () => {
    await run('again');
    expect(adapterBytes('again').equals(adapterBytes('plain'))).toBe(true);
    await run('other', ['seed=43']);
    expect(adapterBytes('other').equals(adapterBytes('plain'))).toBe(false);
  });

  // Each of the optimizers that keep other states; at this rank some parameters have 8-bit ones.
  test.each(['adamw_bnb_8bit', 'lion_8bit', 'adafactor', 'sgd'])('%s resumes bit for bit', async (optimizer) => {
    const overrides = [`optimizer=${optimizer}`, 'lora_r=128', 'num_epochs=1', 'learning_rate=0.001', 'save_steps=2'];
    const whole = await run(`${optimizer}-whole`, overrides);
    const resume = whole.folder.folder('checkpoint-2');
    const dtypes = await dtypesOf(resume, 'optimizer.safetensors');
    expect(dtypes.has('U8')).toBe(optimizer.endsWith('8bit'));
    const rest = await run(`${optimizer}-rest`, overrides, { resume });
    expect(rest.losses).toEqual(whole.losses.slice(2));
    expect(adapterBytes(`${optimizer}-rest`).equals(adapterBytes(`${optimizer}-whole`))).toBe(true);
  });

  test('interrupted it saves; resumed it ends bit for bit where the uninterrupted run does', async () => {
    const controller = new AbortController();
    const stopAt6 = (event: TrainEvent) => event.type === 'step' && event.record.step === 6 && controller.abort();
    const first = await run('resumed', [], { signal: controller.signal, onEvent: stopAt6 });
    expect(first.result).toMatchObject({ steps: 6, interrupted: true });
    expect(existsSync(join(root, 'resumed', 'checkpoint-6'))).toBe(true);
    const second = await run('resumed', [], { resume: first.folder.folder('checkpoint-6') });
    expect(second.result).toMatchObject({ steps: 15, interrupted: false });
    expect(adapterBytes('resumed').equals(adapterBytes('plain'))).toBe(true);
    const losses = log('resumed').filter((line) => 'loss' in line);
    expect(losses.map((line) => line.current_steps)).toEqual(Array.from({ length: 15 }, (_, i) => i + 1));
  });

  test('told to stop it ends there with a whole result, whose checkpoint goes on bit for bit', async () => {
    const asked: number[] = [];
    const stopAfter = async (step: number) => {
      asked.push(step);
      return step === 6 ? 'all was learned' : undefined;
    };
    const first = await run('stopped', [], { stopAfter });
    expect(asked).toEqual([1, 2, 3, 4, 5, 6]);
    expect(first.losses).toHaveLength(6);
    expect(first.result).toMatchObject({ steps: 6, total_steps: 15, interrupted: false, stopped: 'all was learned' });
    const files = readdirSync(join(root, 'stopped'));
    expect(files.filter((name) => name.startsWith('checkpoint'))).toEqual(['checkpoint-4', 'checkpoint-6']);
    expect(files.filter((name) => !name.startsWith('checkpoint'))).toEqual(
      readdirSync(join(root, 'plain')).filter((name) => !name.startsWith('checkpoint')),
    );
    expect(readFileSync(join(root, 'stopped', 'README.md'), 'utf8')).toContain('for 6 of the 15 steps of 3 epochs');
    expect(readFileSync(join(root, 'plain', 'README.md'), 'utf8')).toContain('with lowrank for 3 epochs');
    expect(first.events.flatMap((event) => (event.type === 'evaluation' ? [event.step] : []))).toEqual([5, 6]);
    const second = await run('stopped', [], { resume: first.folder.folder('checkpoint-6') });
    expect(second.result).toMatchObject({ steps: 15, stopped: undefined });
    expect(adapterBytes('stopped').equals(adapterBytes('plain'))).toBe(true);
  });

  test('a step that is not logged by itself is when training stops there', async () => {
    await run('logged', ['logging_steps=4'], { stopAfter: async (step) => (step === 6 ? 'enough' : undefined) });
    expect(log('logged').flatMap((line) => ('loss' in line ? [line.current_steps] : []))).toEqual([4, 6]);
  });

  test('a run that ended after its last checkpoint gets its result from there, the same to the byte', async () => {
    const whole = await run('whole-run');
    const wanted = resultOf('whole-run');
    expect(Object.keys(wanted)).toContain('README.md');
    expect(wanted['README.md']).toMatch(/held-out loss \d/);
    // As after a kill, or a disk that was full when the result was written.
    for (const name of Object.keys(wanted)) if (name !== 'trainer_log.jsonl') rmSync(join(root, 'whole-run', name));
    const checkpoint = whole.folder.folder('checkpoint-15');
    const again = await run('whole-run', [], { resume: checkpoint });
    expect(resultOf('whole-run')).toEqual(wanted);
    expect(again.losses).toEqual([]);
    const { steps, total_steps, loss, eval_loss } = whole.result;
    expect(again.result).toMatchObject({ steps, total_steps, loss, eval_loss, trained_steps: 0, mean_loss: loss, tokens: 0 });
    expect(again.result).toMatchObject({ tokens_per_second: 0, interrupted: false });
    const warned = again.events.flatMap((event) => (event.type === 'warning' ? [event.message] : []));
    expect(warned).toEqual([expect.stringMatching(/step 15 of 15: there is nothing left to train.*lora_model_dir/)]);
    // Stopped before it wrote anything: nothing of what is there is touched.
    rmSync(join(root, 'whole-run', 'README.md'));
    const signal = AbortSignal.abort(new Error('stopped'));
    await expect(run('whole-run', [], { resume: checkpoint, signal })).rejects.toThrow('stopped');
    expect(existsSync(join(root, 'whole-run', 'README.md'))).toBe(false);
  });

  test('a run that goes on counts what it did itself, and its card and log the whole', async () => {
    const { folder } = await run('counted', [], { stopAfter: async (step) => (step === 11 ? 'enough' : undefined) });
    // The held-out loss after the last step comes from this run, the one after step 10 from the earlier one.
    const { result } = await run('counted', ['eval_steps=10'], { resume: folder.folder('checkpoint-11') });
    expect(result).toMatchObject({ steps: 15, trained_steps: 4, total_steps: 15 });
    const tokens = log('plain').flatMap((line) => line.total_tokens ?? []);
    expect(result.tokens).toBe(tokens[14] - tokens[10]);
    expect(log('counted').flatMap((line) => line.total_tokens ?? [])).toEqual(tokens);
    expect(resultOf('counted')['README.md']).toBe(resultOf('plain')['README.md']);
  });

  test('a held-out loss that an interruption left out is taken when the run goes on', async () => {
    const controller = new AbortController();
    const atTheEnd = (event: TrainEvent) => event.type === 'step' && event.record.step === 15 && controller.abort();
    const first = await run('unheld', [], { signal: controller.signal, onEvent: atTheEnd });
    expect(first.result.eval_loss).toBe(log('plain').findLast((line) => line.current_steps === 10 && 'eval_loss' in line).eval_loss);
    await run('unheld', [], { resume: first.folder.folder('checkpoint-15') });
    expect(resultOf('unheld')['README.md']).toBe(resultOf('plain')['README.md']);
  });

  test('a log that cannot be written is found before the first step, and stays as it is', async () => {
    mkdirSync(join(root, 'unlogged', 'trainer_log.jsonl', 'mine'), { recursive: true });
    await expect(run('unlogged')).rejects.toThrow(/unlogged\/trainer_log\.jsonl: is a folder[\s\S]*move it away/);
    expect(readdirSync(join(root, 'unlogged'), { recursive: true })).toEqual(['trainer_log.jsonl', join('trainer_log.jsonl', 'mine')]);
  });

  test('a log that is protected is named as that, before the first step', async ({ skip }) => {
    const path = join(root, 'immutable', 'trainer_log.jsonl');
    mkdirSync(join(root, 'immutable'));
    writeFileSync(path, 'old\n');
    if (spawnSync('chattr', ['+i', path]).status !== 0) skip('needs chattr, root and a file system that protects files');
    try {
      const steps: number[] = [];
      const onEvent = (event: TrainEvent) => event.type === 'step' && steps.push(event.record.step);
      const error = await run('immutable', [], { onEvent }).catch((thrown) => thrown);
      expect(error.message).toMatch(/immutable\/trainer_log\.jsonl: operation not permitted[\s\S]*protected/);
      expect(steps).toEqual([]);
      expect(readFileSync(path, 'utf8')).toBe('old\n');
    } finally {
      spawnSync('chattr', ['-i', path]);
    }
  });

  test('a checkpoint of another recipe, of other data or of no run is refused', async () => {
    const resume = localFolder(join(root, 'plain', 'checkpoint-4'));
    await expect(run('refused', ['lora_r=8'], { resume })).rejects.toThrow(/lora_r = 4, the recipe has 8/);
    const data = await dataOf(recipeOf('refused'), 21);
    await expect(run('refused', [], { resume, data })).rejects.toThrow(/other training data/);
    await expect(run('refused', [], { resume: localFolder(join(root, 'nowhere')) })).rejects.toThrow(/trainer_state.json/);
    expect(existsSync(join(root, 'refused'))).toBe(false);
  });

  test('an earlier run is refused unless it is replaced or resumed, and so is a folder that another run writes', async () => {
    await run('taken', ['max_steps=1']);
    const before = adapterBytes('taken');
    await expect(run('taken', ['max_steps=1', 'seed=43'])).rejects.toThrow(/taken: holds an earlier run/);
    expect(adapterBytes('taken').equals(before)).toBe(true);
    rmSync(join(root, 'taken', 'checkpoint-1'), { recursive: true });
    // A result without checkpoints is one, too.
    await expect(run('taken', ['max_steps=1', 'seed=43'])).rejects.toThrow(/taken: holds an earlier run/);
    const unlock = await localFolder(join(root, 'taken')).lock();
    await expect(run('taken', ['max_steps=1', 'seed=43'], { overwrite: true })).rejects.toThrow(/another run writes into this folder/);
    await unlock();
    await run('taken', ['max_steps=1', 'seed=43'], { overwrite: true });
    expect(adapterBytes('taken').equals(before)).toBe(false);
    expect(readdirSync(join(root, 'taken')).filter((name) => name.startsWith('.'))).toEqual([]);
  });

  test('save_total_limit keeps the newest checkpoints', async () => {
    await run('limited', ['save_total_limit=2', 'save_steps=3']);
    expect(
      readdirSync(join(root, 'limited'))
        .filter((name) => name.startsWith('checkpoint'))
        .sort(),
    ).toEqual(['checkpoint-12', 'checkpoint-15']);
  });

  test('micro-batches change nothing but rounding where their product is equal', async () => {
    const whole = await run('whole', ['lora_dropout=0']);
    const parts = await run('parts', ['lora_dropout=0', 'micro_batch_size=2', 'gradient_accumulation_steps=2']);
    whole.losses.forEach((loss, i) => {
      expect(Math.abs(parts.losses[i] / loss - 1)).toBeLessThan(1e-4);
    });
  });

  test('gradient checkpointing changes no bit', async () => {
    await run('checkpointed', ['gradient_checkpointing=true']);
    expect(adapterBytes('checkpointed').equals(adapterBytes('plain'))).toBe(true);
  });

  testNative('a profile shows every op of one step, in its phases', async () => {
    const profiles: [number, readonly Span[]][] = [];
    const onProfile = async (step: number, spans: readonly Span[]) => void profiles.push([step, spans]);
    await run('profiled', ['max_steps=4'], { onProfile });
    expect(profiles.map(([step]) => step)).toEqual([3]);
    const [[, spans]] = profiles;
    expect([...new Set(spans.map(({ phase }) => phase))]).toEqual(['forward', 'loss', 'backward', 'update']);
    expect(spans.filter(({ op }) => op === 'loraLinearBackward').length).toBeGreaterThan(0);
    expect(spans.filter(({ op }) => op === 'adamw')).toHaveLength(spans.filter(({ op }) => op === 'sumSquares').length);
    expect(spans.every(({ start, end }, i) => end >= start && (i === 0 || start >= spans[i - 1].end))).toBe(true);
    await run('not-profiled', ['max_steps=4']);
    expect(adapterBytes('profiled').equals(adapterBytes('not-profiled'))).toBe(true);
  });

  test('dropout matters', async () => {
    await run('no-dropout', ['lora_dropout=0']);
    expect(adapterBytes('no-dropout').equals(adapterBytes('plain'))).toBe(false);
  });

  test('the held-out loss of packed examples is that of single ones, and of the adapter read back', async () => {
    const { recipe, result } = await run('held');
    const data = await dataOf(recipe);
    const { adapter } = await openAdapter(localFolder(join(root, 'held')), text.model);
    expect((await readContract(localFolder(join(root, 'held'))))?.base.identity).toBe(source.identity);
    const packed = await evaluateLoss(text.model, heldBatches(recipe, data));
    const single = await evaluateLoss(text.model, heldBatches({ ...recipe, micro_batch_size: 1 }, data));
    adapter.dispose();
    expect(packed.loss).toBe(result.eval_loss);
    expect(Math.abs(single.loss / packed.loss - 1)).toBeLessThan(1e-5);
  });

  test('lora_model_dir begins with another adapter', async () => {
    const plain = await run('before', ['max_steps=1']);
    const warm = await run('warm', ['max_steps=1'], { start: localFolder(join(root, 'plain')) });
    expect(warm.losses[0]).toBeLessThan(0.9 * plain.losses[0]);
  });

  test('a loss that is not finite ends the run with the reason, and the last checkpoint stays', async () => {
    const broken = run('diverged', [
      'learning_rate=1e30',
      'lr_scheduler=constant',
      'save_steps=1',
      'max_grad_norm=0',
      'adam_epsilon=1e-30',
    ]);
    await expect(broken).rejects.toThrow(/not finite|the loss is|overflows/);
    expect(readdirSync(join(root, 'diverged'))).toContain('checkpoint-1');
  });

  test('memory goes back to what it was', async () => {
    const before = { ...backend.memory().currentOf, workspace: 0 };
    await run('memory', ['max_steps=2']);
    expect({ ...backend.memory().currentOf, workspace: 0 }).toEqual(before);
  });
});
