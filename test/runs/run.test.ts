import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { previewRun, type RecipeInput, type RunEvent, type RunOptions, startRun } from '../../src/index.js';
import { nodeHost } from '../../src/runs/node.js';
import { testNative, withoutNative } from '../helpers/native.js';
import { writeRows, writeTinyModel } from '../helpers/tiny-model.js';

const root = mkdtempSync(join(tmpdir(), 'lowrank-start-'));
const at = (...names: string[]) => join(root, ...names);
const device = withoutNative === undefined ? 'cpu' : 'reference';
const near = root;

beforeAll(async () => {
  vi.stubEnv('LOWRANK_THREADS', '2');
  await writeTinyModel(at('model'));
  // Other weights would do as well: what a base is comes from all of its files.
  await writeTinyModel(at('other'), { rms_norm_eps: 1e-4 });
  writeRows(at('train.jsonl'), 20, 1);
  writeRows(at('test.jsonl'), 6, 2);
});
afterAll(() => {
  vi.unstubAllEnvs();
  rmSync(root, { recursive: true, force: true });
});

const recipeOf = (name: string, more: Partial<RecipeInput> = {}): RecipeInput => ({
  base_model: 'model',
  datasets: ['train.jsonl'],
  test_datasets: ['test.jsonl'],
  output_dir: at(name),
  micro_batch_size: 4,
  num_epochs: 2,
  learning_rate: 0.01,
  lora_r: 4,
  save_steps: 4,
  logging_steps: 3,
  bf16: false,
  ...more,
});

/** Runs a recipe and keeps its events. */
async function run(recipe: RecipeInput | string, options: Partial<RunOptions> = {}) {
  const events: RunEvent[] = [];
  const onEvent = (event: RunEvent) => {
    events.push(event);
    options.onEvent?.(event);
  };
  return { result: await startRun(recipe, { device, near, ...options, onEvent }), events };
}

const adapter = (name: string) => readFileSync(at(name, 'adapter_model.safetensors'));
const of = <T extends RunEvent['type']>(events: readonly RunEvent[], type: T) =>
  events.filter((event): event is Extract<RunEvent, { type: T }> => event.type === type);

/** Fires at an event. */
function abortAt(wanted: (event: RunEvent) => boolean): Partial<RunOptions> {
  const controller = new AbortController();
  return { signal: controller.signal, onEvent: (event) => void (wanted(event) && controller.abort()) };
}

describe('a run from TypeScript', () => {
  test('says what happens, in order and completely', async () => {
    const { result, events } = await run(recipeOf('told'));
    const types = events.map(({ type }) => type).filter((type, i, all) => type !== 'loading' || all[i - 1] !== 'loading');
    const steps = (...more: RunEvent['type'][]): RunEvent['type'][] => ['step', ...more];
    expect(types).toEqual([
      ...['data', 'data', 'steps', 'plan', 'device', 'loading', 'start'],
      ...[...steps(), ...steps(), ...steps(), ...steps('checkpoint'), ...steps('evaluation')],
      ...[...steps(), ...steps(), ...steps('checkpoint'), ...steps(), ...steps('evaluation', 'checkpoint')],
      ...['save', 'end'],
    ]);
    expect(of(events, 'data').map(({ path, held_out, statistics }) => [path, held_out, statistics.rows])).toEqual([
      ['train.jsonl', false, 20],
      ['test.jsonl', true, 6],
    ]);
    expect(of(events, 'steps')).toEqual([{ type: 'steps', total_steps: 10, steps_per_epoch: 5 }]);
    expect(of(events, 'plan')[0].plan.peak_rss_bytes).toBe(result.planned_rss_bytes);
    expect(of(events, 'device')[0].name).toBe(device);
    const loading = of(events, 'loading');
    expect(loading.map(({ done }) => done)).toEqual(loading.map((_, i) => i + 1));
    expect(loading.at(-1)).toMatchObject({ model: at('model'), done: loading[0].total });
    expect(of(events, 'start')[0]).toMatchObject({ total_steps: 10, steps_per_epoch: 5, step: 0, percent: expect.any(Number) });
    expect(of(events, 'step').map(({ record, logged }) => [record.step, logged])).toEqual(
      Array.from({ length: 10 }, (_, i) => [i + 1, [3, 6, 9, 10].includes(i + 1)]),
    );
    expect(of(events, 'checkpoint').map(({ step, path }) => [step, path])).toEqual(
      [4, 8, 10].map((step) => [step, at('told', `checkpoint-${step}`)]),
    );
    expect(of(events, 'save')).toEqual([{ type: 'save', step: 10, path: at('told') }]);
    expect(events.at(-1)).toEqual({ type: 'end', result });
    expect(result).toMatchObject({ steps: 10, total_steps: 10, interrupted: false, adapter_dir: at('told') });
    expect(result.eval_loss).toBe(of(events, 'evaluation')[1].loss);
    expect(result.peak_rss_bytes).toBeGreaterThan(1e7);
    // Whoever gets them as JSON misses nothing: no number is without a value.
    const numbers = (value: unknown): unknown[] =>
      typeof value === 'object' && value !== null ? Object.values(value).flatMap(numbers) : [value];
    expect(numbers(events).filter((value) => typeof value === 'number' && !Number.isFinite(value))).toEqual([]);
  });

  test('its time to go is what a step took so far times the steps to go, also after a resume', async () => {
    const first = await run(
      recipeOf('timed'),
      abortAt((event) => event.type === 'step' && event.record.step === 4),
    );
    const second = await run(recipeOf('timed'), { resume: true });
    for (const [{ events }, before] of [[first, 0] as const, [second, 4] as const]) {
      const all = of(events, 'step');
      expect(all.map(({ record }) => record.step)[0]).toBe(before + 1);
      let spent = 0;
      let tokens = 0;
      for (const { record, progress } of all) {
        tokens += record.tokens;
        expect(progress.seconds).toBeGreaterThan(spent);
        spent = progress.seconds;
        expect(progress.remaining_seconds).toBeCloseTo((spent / (record.step - before)) * (10 - record.step), 9);
        expect(progress.tokens).toBe(tokens);
      }
      const busy = all.reduce((sum, { record }) => sum + record.seconds, 0);
      expect(all.at(-1)!.progress.tokens_per_second).toBeCloseTo(tokens / busy, 6);
      expect(spent).toBeGreaterThanOrEqual(busy * 0.999);
    }
    expect(of(second.events, 'step').at(-1)!.progress.remaining_seconds).toBe(0);
  });

  test('takes a recipe’s text, and names the file in errors', async () => {
    const text = JSON.stringify(recipeOf('text', { max_steps: 1 }));
    expect((await run(text)).result.steps).toBe(1);
    await expect(run(text.replace('lora_r', 'lora_rank'), { name: 'mine.yaml' })).rejects.toMatchObject({
      place: expect.stringMatching(/^mine\.yaml:1:\d+$/),
      problem: 'unknown key "lora_rank"',
    });
    await expect(run({ ...recipeOf('text'), lora_rank: 4 } as never)).rejects.toMatchObject({
      place: 'recipe',
      problem: 'unknown key "lora_rank"',
    });
    await expect(run(recipeOf('none', { datasets: ['none.jsonl'] }))).rejects.toThrow(/none\.jsonl: there is no such file/);
    await expect(run(recipeOf('none', { datasets: ['model/config.txt'] }))).rejects.toThrow(/recipe: model\/config\.txt: not a data set/);
    expect(existsSync(at('none'))).toBe(false);
  });

  test('shows the first examples without writing anything, also where an earlier run is', async () => {
    await run(recipeOf('seen', { max_steps: 1 }));
    const before = readdirSync(at('seen'));
    const events: RunEvent[] = [];
    // What it does not show it does not prepare either: the third row is broken.
    const [first, second] = readFileSync(at('train.jsonl'), 'utf8').split('\n');
    writeFileSync(at('begun.jsonl'), `${first}\n${second}\n{"messages": 7}\n`);
    await previewRun(recipeOf('seen', { datasets: ['begun.jsonl'], test_datasets: ['begun.jsonl'], val_set_size: 1 }), { near }, 2);
    const { shown } = await previewRun(recipeOf('seen'), { near, onEvent: (event) => events.push(event) }, 2);
    expect(shown).toHaveLength(2);
    expect(shown[1].row).toBe(`${at('train.jsonl')}:2`);
    const text = shown[0].sequences[0].map(({ text, supervised }) => (supervised ? `‹${text}›` : text)).join('');
    expect(text).toMatch(/assistant\n‹[a-z]+<\|im_end\|>›/);
    expect(events).toEqual([]);
    expect(readdirSync(at('seen'))).toEqual(before);
  });

  test('a preview does not care for output_dir, and says what of its rows is not trained', async () => {
    writeFileSync(at('more.jsonl'), readFileSync(at('train.jsonl'), 'utf8').replace(/^\{/gm, '{"topic": "words", '));
    const events: RunEvent[] = [];
    const recipe = recipeOf('model', { adapter: 'full', datasets: ['more.jsonl'] });
    expect((await previewRun(recipe, { near, onEvent: (event) => events.push(event) })).shown).toHaveLength(3);
    const place = `${at('more.jsonl')}:1`;
    expect(events).toEqual([
      { type: 'warning', message: `of more.jsonl nothing reads the column "topic" (3 rows, such as ${place}: "words")` },
    ]);
  });

  test.each<[Partial<RecipeInput>, RegExp]>([
    [{ lora_target_modules: ['q_proj', 'v_prj'] }, /target_modules: "v_prj" fits no module of this model[\s\S]*write "v_proj"/],
    [{ lora_exclude_modules: ['donw_proj'] }, /exclude_modules: "donw_proj" fits no module[\s\S]*write "down_proj"/],
    [{ lora_rank_pattern: { q_porj: 2 } }, /rank_pattern: "q_porj" fits no adapted layer[\s\S]*write "q_proj"/],
    [{ lora_target_modules: ['q_proj'], lora_alpha_pattern: { v_proj: 2 } }, /alpha_pattern: "v_proj" fits no adapted layer/],
    [{ lora_modules_to_save: ['lm_hed'] }, /modules_to_save[\s\S]*lm_head/],
  ])('a preview and a run refuse names that fit nothing: %j', async (more, message) => {
    await expect(previewRun(recipeOf('misspelt', more), { near })).rejects.toThrow(message);
    await expect(run(recipeOf('misspelt', more))).rejects.toThrow(message);
  });

  test.each([
    ['rows.csv', /convert it: python3 -c "import csv, json; .*open\('rows\.csv'.*" > rows\.jsonl; then write rows\.jsonl/],
    ['rows.parquet', /convert it: python3 -c "import pandas; pandas\.read_parquet\('rows\.parquet'\)\.to_json\('rows\.jsonl'/],
    ['rows.jsonl.gz', /convert it: gzip -dc rows\.jsonl\.gz > rows\.jsonl/],
    ['tatsu-lab/alpaca', /load_dataset\('tatsu-lab\/alpaca', split='train'\)\.to_json\('alpaca\.jsonl'\)/],
    ['rows', /write its rows as JSON, one object a line/],
  ])('how %s becomes a data set is said', async (path, message) => {
    await expect(previewRun(recipeOf('none', { datasets: [path] }), { near })).rejects.toThrow(message);
  });

  testNative('writes the profile of a step', async () => {
    const { events } = await run(recipeOf('profiled', { max_steps: 2 }), { profile: at('trace.json') });
    expect(of(events, 'profile')).toEqual([{ type: 'profile', step: 2, path: at('trace.json') }]);
    expect(JSON.parse(readFileSync(at('trace.json'), 'utf8')).traceEvents.length).toBeGreaterThan(10);
  });

  test('ends where it is told to', async () => {
    const { result } = await run(recipeOf('enough'), { stopAfter: async (step) => (step === 3 ? 'enough' : undefined) });
    expect(result).toMatchObject({ steps: 3, total_steps: 10, interrupted: false, stopped: 'enough' });
  });

  test('is refused where the memory does not hold it, unless it is forced', async () => {
    const host = { ...nodeHost, machine: () => ({ ...nodeHost.machine(), memory: 1e6 }) };
    const small = run(recipeOf('large', { max_steps: 1 }), { host, name: 'large.yaml' });
    await expect(small).rejects.toThrow(/large\.yaml: the run would hold \d+\.\d MB of memory, and the machine has 1\.0 MB/);
    expect(existsSync(at('large'))).toBe(false);
    expect((await run(recipeOf('large', { max_steps: 1 }), { host, force: true })).result.steps).toBe(1);
  });

  test('trains without rows that cannot be read, where it is told to', async () => {
    writeFileSync(at('some.jsonl'), `${readFileSync(at('train.jsonl'), 'utf8').replace('user', '')}{"messages": 7}\n{"messages"\n`);
    const recipe = recipeOf('some', { datasets: ['some.jsonl'], test_datasets: undefined, max_steps: 1 });
    await expect(run(recipe)).rejects.toThrow(
      /some\.jsonl:1: .*3 rows of some\.jsonl cannot be trained, also .*some\.jsonl:21, .*some\.jsonl:22/,
    );
    const { events } = await run({ ...recipe, invalid_rows_strategy: 'drop' });
    expect(of(events, 'data')[0].statistics).toMatchObject({ rows: 19, examples: 19, invalid: 3 });
    expect(of(events, 'warning').map(({ message }) => message)).toEqual([
      expect.stringMatching(/^3 rows of some\.jsonl cannot be trained and were left out, such as .*some\.jsonl:1: /),
    ]);
  });

  test('warns of rows that are left out', async () => {
    const whole = await run(recipeOf('long', { max_steps: 1, test_datasets: undefined }));
    const sequence_len = of(whole.events, 'data')[0].statistics.longest - 1;
    const { events } = await run(recipeOf('short', { sequence_len, max_steps: 1, test_datasets: undefined }));
    const [{ statistics }] = of(events, 'data');
    expect(statistics.dropped).toBe(1);
    expect(of(events, 'warning').map(({ message }) => message)).toEqual([
      `1 row of train.jsonl is longer than sequence_len ${sequence_len} and was dropped`,
    ]);
    const cut = await run(recipeOf('cut', { sequence_len, excess_length_strategy: 'truncate', max_steps: 1, test_datasets: undefined }));
    expect(of(cut.events, 'warning').map(({ message }) => message)).toEqual([
      `1 row of train.jsonl was cut to sequence_len ${sequence_len}`,
    ]);
  });
});

describe('what a run goes on from', () => {
  test('an earlier run is kept unless it is to be replaced', async () => {
    await run(recipeOf('kept', { max_steps: 1 }));
    const before = adapter('kept');
    await expect(run(recipeOf('kept', { max_steps: 1, seed: 1 }))).rejects.toThrow(/holds an earlier run/);
    expect(adapter('kept').equals(before)).toBe(true);
    await run(recipeOf('kept', { max_steps: 1, seed: 1 }), { overwrite: true });
    expect(adapter('kept').equals(before)).toBe(false);
    await expect(run(recipeOf('fresh'), { resume: true })).rejects.toThrow(/holds no checkpoint/);
    expect(existsSync(at('fresh'))).toBe(false);
  });

  test('interrupted and resumed it ends where the uninterrupted run does', async () => {
    await run(recipeOf('whole'));
    const { result } = await run(
      recipeOf('parted'),
      abortAt((event) => event.type === 'step' && event.record.step === 6),
    );
    expect(result).toMatchObject({ steps: 6, interrupted: true });
    const { events } = await run(recipeOf('parted'), { resume: true });
    expect(of(events, 'start')[0].step).toBe(6);
    expect(adapter('parted').equals(adapter('whole'))).toBe(true);
    const named = await run(recipeOf('named'), { resume: at('whole', 'checkpoint-8') });
    expect(of(named.events, 'step').map(({ record }) => record.step)).toEqual([9, 10]);
    expect(adapter('named').equals(adapter('whole'))).toBe(true);
  });

  test('a checkpoint of another base, or of other settings, is refused', async () => {
    await run(
      recipeOf('based'),
      abortAt((event) => event.type === 'step' && event.record.step === 2),
    );
    const refused = (more: Partial<RecipeInput>) => run(recipeOf('based', more), { resume: true });
    await expect(refused({ base_model: 'other' })).rejects.toThrow(`the run had another base model, ${at('model')}`);
    await expect(refused({ max_steps: 5 })).rejects.toThrow('the run had no max_steps, the recipe has 5');
    // The same files elsewhere are the same base.
    cpSync(at('model'), at('moved'), { recursive: true });
    const { events } = await refused({ base_model: 'moved' });
    expect(of(events, 'start')[0].step).toBe(2);
    // Nor does a state serve that does not say which base it was.
    const state = at('based', 'checkpoint-10', 'trainer_state.json');
    const { base: _, ...rest } = JSON.parse(readFileSync(state, 'utf8'));
    writeFileSync(state, JSON.stringify(rest));
    await expect(refused({})).rejects.toThrow(/the run had another base model\n/);
  });

  test.each<[string, (event: RunEvent) => boolean]>([
    ['when the data are read', (event) => event.type === 'steps'],
    ['when it is planned', (event) => event.type === 'plan'],
    ['while the model loads', (event) => event.type === 'loading' && event.done === 3],
    ['when it is loaded', (event) => event.type === 'start'],
  ])('a signal %s ends the run with its reason, and an earlier one stays as it was', async (_, wanted) => {
    if (!existsSync(at('stays'))) await run(recipeOf('stays', { max_steps: 1 }));
    const before = readdirSync(at('stays'));
    const bytes = adapter('stays');
    await expect(run(recipeOf('stays', { seed: 3 }), { overwrite: true, ...abortAt(wanted) })).rejects.toMatchObject({
      name: 'AbortError',
    });
    expect(readdirSync(at('stays'))).toEqual(before);
    expect(adapter('stays').equals(bytes)).toBe(true);
    const events: RunEvent[] = [];
    const { signal, onEvent } = abortAt(wanted);
    const never = run(recipeOf('never'), { signal, onEvent: (event) => void (events.push(event) && onEvent?.(event)) });
    await expect(never).rejects.toMatchObject({ name: 'AbortError' });
    // It is the last that was heard of the run.
    expect(wanted(events.at(-1)!)).toBe(true);
    expect(existsSync(at('never'))).toBe(false);
  });
});
