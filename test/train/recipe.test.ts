import { describe, expect, test } from 'vitest';
import { otherNames } from '../../src/runs/other-names.js';
import { checkRecipe, loraConfigOf, parseRecipe, type RecipeInput, recipeKeys } from '../../src/runs/recipe.js';
import { LowrankError } from '../../src/util/errors.js';

const minimal = 'base_model: some/model\ndatasets: [data.jsonl]\n';

function errorOf(text: string, overrides: string[] = []): LowrankError {
  try {
    parseRecipe(text, 'r.yaml', overrides);
  } catch (error) {
    expect(error).toBeInstanceOf(LowrankError);
    return error as LowrankError;
  }
  throw new Error('the recipe was accepted');
}

describe('recipes', () => {
  test('defaults', () => {
    const recipe = parseRecipe(minimal, 'r.yaml');
    expect(recipe.datasets).toEqual([{ path: 'data.jsonl' }]);
    expect([recipe.lora_r, recipe.lora_dropout, recipe.output_dir, recipe.seed]).toEqual([16, 0.05, './model-out', 42]);
    expect(loraConfigOf(recipe)).toMatchObject({ r: 16, lora_alpha: 32, target_modules: 'all-linear', lora_dropout: 0.05 });
  });

  test('adapter: lora unless it says full, or nothing as in Axolotl', () => {
    const adapterOf = (line: string) => parseRecipe(`${minimal}${line}\n`, 'r').adapter;
    expect(['', 'adapter: lora', 'adapter: full', 'adapter: null', 'adapter:'].map(adapterOf)).toEqual([
      'lora',
      'lora',
      'full',
      'full',
      'full',
    ]);
    expect(errorOf(`${minimal}adapter: dora\n`).message).toMatch(/r.yaml:3:10: adapter: .*"lora"\|"qlora"\|"full"/);
  });

  test('optimizers go by transformers’ names', () => {
    for (const optimizer of ['adamw_torch', 'adamw_bnb_8bit', 'paged_adamw_8bit', 'lion_8bit', 'adafactor', 'sgd'])
      expect(parseRecipe(`${minimal}optimizer: ${optimizer}\nmemory_limit: 1.5\n`, 'r')).toMatchObject({ optimizer, memory_limit: 1.5 });
    expect(errorOf(`${minimal}optimizer: adam8\n`).message).toMatch(/adamw_bnb_8bit/);
  });

  test('named target modules replace the linear layers unless both are asked for', () => {
    const targets = `${minimal}lora_target_modules: [q_proj]\n`;
    expect(loraConfigOf(parseRecipe(targets, 'r')).target_modules).toEqual(['q_proj']);
    expect(loraConfigOf(parseRecipe(`${targets}lora_target_linear: true\n`, 'r')).target_modules).toBe('all-linear');
  });

  test('overrides replace and reach into objects; their values are YAML', () => {
    const recipe = parseRecipe(`${minimal}lora_r: 4\n`, 'r', [
      'lora_r=8',
      'learning_rate=1e-3',
      'lora_rank_pattern.q_proj=2',
      'datasets=[a.json, b.json]',
    ]);
    expect(recipe).toMatchObject({
      lora_r: 8,
      learning_rate: 1e-3,
      lora_rank_pattern: { q_proj: 2 },
      datasets: [{ path: 'a.json' }, { path: 'b.json' }],
    });
  });

  test('an object is the recipe that its text is, also one that has its defaults', () => {
    const object: RecipeInput = { base_model: 'some/model', datasets: ['data.jsonl'], adapter: null, bnb_config_kwargs: {} };
    const parsed = parseRecipe(JSON.stringify(object), 'r');
    expect(checkRecipe(object)).toEqual(parsed);
    expect(checkRecipe(parsed)).toEqual(parsed);
  });

  test.each<[string, unknown, RegExp, RegExp]>([
    ['an unknown key', { base_model: 'x', datasets: ['a'], lora_rank: 4 }, /^unknown key "lora_rank"$/, /"lora_r"/],
    ['an unknown key of a data set', { base_model: 'x', datasets: [{ path: 'a', tpye: 'b' }] }, /"datasets\.0\.tpye"/, /"type"/],
    ['a wrong type', { base_model: 'x', datasets: ['a'], lora_r: 'four' }, /^lora_r: /, /correct lora_r/],
    ['a missing key', { base_model: 'x' }, /^datasets is missing$/, /datasets/],
    ['a key without a value', { base_model: undefined, datasets: ['a'] }, /^base_model is missing$/, /base_model/],
    ['no object', undefined, /^not a recipe$/, /base_model/],
    ['a list', ['x'], /^not a recipe$/, /base_model/],
  ])('an object with %s is refused with the reason', (_, value, problem, mend) => {
    const error = (() => {
      try {
        checkRecipe(value as RecipeInput, 'mine');
      } catch (thrown) {
        return thrown;
      }
    })();
    expect(error).toBeInstanceOf(LowrankError);
    expect(error).toMatchObject({ place: 'mine', problem: expect.stringMatching(problem), mend: expect.stringMatching(mend) });
  });

  test('a path alone is a list of one', () => {
    const recipe = parseRecipe('base_model: x\ndatasets: rows.jsonl\ntest_datasets: held.jsonl\n', 'r.yaml');
    expect(recipe).toMatchObject({ datasets: [{ path: 'rows.jsonl' }], test_datasets: [{ path: 'held.jsonl' }] });
    expect(checkRecipe({ base_model: 'x', datasets: 'rows.jsonl' }).datasets).toEqual([{ path: 'rows.jsonl' }]);
    expect(errorOf('base_model: x\ndatasets: 5\n').place).toBe('r.yaml:2:11');
  });

  test.each([
    ['epochs num_train_epochs n_epochs', 'num_epochs'],
    ['batch_size per_device_train_batch_size', 'micro_batch_size'],
    ['lr', 'learning_rate'],
    ['max_seq_length cutoff_len max_length model_max_length', 'sequence_len'],
    ['lora_rank r rank', 'lora_r'],
    ['lora_target target_modules', 'lora_target_modules'],
    ['model_name_or_path model', 'base_model'],
    ['dataset train_file', 'datasets'],
    ['lr_scheduler_type', 'lr_scheduler'],
    ['optim', 'optimizer'],
    ['packing', 'sample_packing'],
    ['Num-Train-Epochs', 'num_epochs'],
  ])('what other systems call %s is %s here', (others, key) => {
    for (const other of others.split(' ')) expect(errorOf(`${minimal}${other}: 3\n`).mend).toBe(`write "${key}", or remove it`);
  });

  test('every name of other systems stands for a key that there is, and is none', () => {
    const keys = recipeKeys().map(({ key }) => key);
    for (const [other, key] of otherNames) expect([keys.includes(key), keys.includes(other)], other).toEqual([true, false]);
  });

  test('every key has a help text or speaks for itself', () => {
    expect(recipeKeys().find(({ key }) => key === 'lora_r')).toEqual({ key: 'lora_r', standard: '16', help: 'rank' });
  });
});

describe('errors name the place and the mend', () => {
  test.each<[string, string, string[], string, RegExp]>([
    ['an unknown key', `${minimal}lora_rank: 4\n`, [], 'r.yaml:3:1', /lora_r"/],
    ['an unknown key of a data set', 'base_model: x\ndatasets:\n  - path: a\n    tpye: b\n', [], 'r.yaml:4:5', /"type"/],
    ['a wrong type', `${minimal}lora_r: four\n`, [], 'r.yaml:3:9', /correct lora_r/],
    ['a value out of range', `${minimal}lora_dropout: 1.5\n`, [], 'r.yaml:3:15', /lora_dropout/],
    ['an infinite value', `${minimal}learning_rate: .inf\n`, [], 'r.yaml:3:16', /learning_rate/],
    ['an unknown choice', `${minimal}lr_scheduler: sinus\n`, [], 'r.yaml:3:15', /lr_scheduler/],
    ['a missing key', 'base_model: x\n', [], 'r.yaml:1:1', /datasets/],
    ['no data', 'base_model: x\ndatasets: []\n', [], 'r.yaml:2:11', /datasets/],
    ['broken YAML', 'base_model: x: y\n', [], 'r.yaml:1:13', /line/],
    ['a doubled key', `${minimal}seed: 1\nseed: 2\n`, [], 'r.yaml:4:1', /line/],
    ['a list instead of keys', '- base_model\n', [], 'r.yaml:1:1', /base_model/],
    ['an empty file', '', [], 'r.yaml:1:1', /base_model/],
    ['an override without a value', minimal, ['lora_r'], 'command line: lora_r', /./],
    ['an unknown override', minimal, ['learning_rat=1'], 'command line: learning_rat', /learning_rate/],
    ['a wrong override', minimal, ['lora_r=0'], 'command line: lora_r', /lora_r/],
    ['an override into a text', minimal, ['base_model.x=1'], 'command line: base_model.x=1', /./],
    ['an override of broken YAML', minimal, ['lora_r=[1'], 'command line: lora_r=[1', /./],
  ])('%s', (_, text, overrides, place, mend) => {
    const error = errorOf(text, overrides);
    expect(error.place).toBe(place);
    expect(`${error.mend} ${error.expected}`).toMatch(mend);
  });

  test('aliases that multiply are refused, quickly', () => {
    const levels = Array.from({ length: 30 }, (_, i) => `a${i}: &a${i} [${i === 0 ? '1' : `*a${i - 1}, *a${i - 1}`}]`).join('\n');
    expect(errorOf(`${levels}\n${minimal}`).message).toMatch(/alias/i);
  });

  test('a file that is no recipe but a gigabyte of something is refused', () => {
    expect(errorOf('a'.repeat(2 << 20)).problem).toMatch(/characters/);
  });

  test('nesting does not exhaust the stack', () => {
    expect(errorOf(`base_model: ${'['.repeat(50_000)}`)).toBeInstanceOf(LowrankError);
  });
});
