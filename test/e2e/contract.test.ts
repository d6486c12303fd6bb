/** What a run trained with is what answers, evaluates and merges: each case is a user's, told in public about one system or another. */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { alpacaPrompt } from '../../src/data/formats/index.js';
import { chatml } from '../data/golden.js';
import { lowrank } from '../helpers/cli.js';
import { writeChainModel, writeTinyModel } from '../helpers/tiny-model.js';

const root = mkdtempSync(join(tmpdir(), 'lowrank-contract-'));
const at = (...names: string[]) => join(root, ...names);
const read = (...names: string[]) => JSON.parse(readFileSync(at(...names), 'utf8'));
const change = (path: string, more: object) => writeFileSync(path, JSON.stringify({ ...JSON.parse(readFileSync(path, 'utf8')), ...more }));

afterAll(() => rmSync(root, { recursive: true, force: true }));

function rows(name: string, ...values: object[]): void {
  writeFileSync(at(name), values.map((value) => `${JSON.stringify(value)}\n`).join(''));
}

const turn = (question: string, answer: string) => ({
  messages: [
    { role: 'user', content: question },
    { role: 'assistant', content: answer },
  ],
});

beforeAll(async () => {
  await writeTinyModel(at('model'));
  rows('chat.jsonl', turn('a', 'b'), turn('c', 'd'));
  rows('alpaca.jsonl', { instruction: 'a', input: '', output: 'b' });
  rows('texts.jsonl', { text: 'once upon a time' });
});

/** Trains by the command; resolves to what it said. */
async function train(name: string, settings: Record<string, unknown>, ...options: string[]): Promise<string> {
  const recipe = { base_model: 'model', datasets: ['chat.jsonl'], output_dir: at(name), bf16: false, lora_r: 2, ...settings };
  writeFileSync(at(`${name}.yaml`), JSON.stringify(recipe));
  const { code, err } = await lowrank(['train', at(`${name}.yaml`), ...options]);
  expect({ code, err }).toMatchObject({ code: 0 });
  return err;
}

async function generate(...options: string[]): Promise<{ text: string; prompt_tokens: number; finish: string }> {
  const { code, out, err } = await lowrank(['generate', '--max-new-tokens', '8', '--json', ...options]);
  expect({ code, err }).toMatchObject({ code: 0 });
  return JSON.parse(out);
}

describe('prompts are framed as the training rows were', () => {
  test('by the template that was trained, also in a merged model', async () => {
    const own =
      `{% for m in messages %}[{{ m.role }}]{{ m.content }}<|im_end|>{% endfor %}{% if add_generation_prompt ` + `%}[assistant]{% endif %}`;
    await train('templated', { chat_template_jinja: own });
    const wanted = chatml.encode('[user]a<|im_end|>[assistant]').length;
    expect(await generate('--model', at('model'), 'a')).not.toMatchObject({ prompt_tokens: wanted });
    expect(await generate('--adapter', at('templated'), 'a')).toMatchObject({ prompt_tokens: wanted });
    // A checkpoint is a result as well.
    expect(await generate('--adapter', at('templated', 'checkpoint-2'), 'a')).toMatchObject({ prompt_tokens: wanted });
    expect(await lowrank(['merge', '--adapter', at('templated')])).toMatchObject({ code: 0 });
    expect(readFileSync(at('templated', 'merged', 'chat_template.jinja'), 'utf8')).toBe(own);
    expect(await generate('--model', at('templated', 'merged'), 'a')).toMatchObject({ prompt_tokens: wanted });
    // Switching adapters switches their templates.
    const chat = await lowrank(['chat', '--adapter', at('templated'), '--max-new-tokens', '1'], {
      input: '/base\na\n/adapter\na\n/exit\n',
    });
    expect(chat).toMatchObject({ code: 0 });
  });

  test('by a template in a file beside the recipe, and a file that is not there is no template', async () => {
    const own = `{% for m in messages %}<|im_start|>{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}<|im_start|>`;
    writeFileSync(at('own.jinja'), own);
    await train('filed', { chat_template_jinja: 'own.jinja', max_steps: 1 });
    expect(read('filed', 'lowrank.json')).toMatchObject({ chat_template: own });
    for (const command of ['train', 'plan', 'eval']) {
      const { err } = await lowrank([command, at('filed.yaml'), 'chat_template_jinja=other.jinja', 'output_dir=x', 'val_set_size=0.5']);
      expect([command, err]).toEqual([command, expect.stringMatching(/^error: other\.jinja: /m)]);
    }
  });

  test('by the Alpaca prompt, and the closing line says how to ask', async () => {
    const said = await train('alpaca', { datasets: ['alpaca.jsonl'] });
    expect(said).toContain(`next       lowrank generate --adapter ${at('alpaca')} "`);
    const wanted = chatml.encode(alpacaPrompt('say it', '')).length;
    expect(await generate('--adapter', at('alpaca'), 'say it')).toMatchObject({ prompt_tokens: wanted });
    const chat = await lowrank(['chat', '--adapter', at('alpaca'), '--max-new-tokens', '1'], { input: 'say it\n/exit\n' });
    expect(chat.err).toMatch(/Alpaca/);
    const withSystem = await lowrank(['generate', '--adapter', at('alpaca'), '--system', 'be kind', 'a']);
    expect(withSystem).toMatchObject({
      code: 1,
      err: expect.stringMatching(/a system message has no place: .*"system"\n.*begin the prompt with what it says/),
    });
    // What the base is stands in the contract alone.
    expect(readFileSync(at('alpaca', 'adapter_model.safetensors'), 'latin1')).not.toContain('base_identity');
    expect(read('alpaca', 'lowrank.json')).toMatchObject({
      framing: 'alpaca',
      datasets: [{ path: 'alpaca.jsonl', type: 'alpaca', examples: 1, read: ['instruction', 'input', 'output'] }],
    });
  });

  test('by the Alpaca prompt with the system column in its place, which the closing line names', async () => {
    rows('systems.jsonl', ...['b', 'd'].map((output) => ({ system: 'Be kind.', instruction: 'a', output })));
    const said = await train('systems', { datasets: ['systems.jsonl'], max_steps: 1 });
    expect(said).toContain(`next       lowrank generate --adapter ${at('systems')} --system 'Be kind.' "an instruction"`);
    const lengthOf = (system?: string) => chatml.encode(alpacaPrompt('say it', '', { system })).length;
    expect(await generate('--adapter', at('systems'), '--system', 'Be kind.', 'say it')).toMatchObject({
      prompt_tokens: lengthOf('Be kind.'),
    });
    expect(await generate('--adapter', at('systems'), 'say it')).toMatchObject({ prompt_tokens: lengthOf() });
    const texts = await train('texts-alone', { datasets: ['texts.jsonl'], max_steps: 1 });
    expect(texts).not.toContain('--system');
    const refused = await lowrank(['generate', '--adapter', at('texts-alone'), '--system', 'be kind', 'a']);
    expect(refused.err).toMatch(/a system message has no place: the training rows were texts to be continued\n/);
  });

  test('with the system message that all rows have, which the closing line names', async () => {
    const system = { role: 'system', content: "it's kind" };
    rows('kind.jsonl', ...[turn('a', 'b'), turn('c', 'd')].map(({ messages }) => ({ messages: [system, ...messages] })));
    const said = await train('kind', { datasets: ['kind.jsonl'], max_steps: 1 });
    expect(said).toContain(`next       lowrank chat --adapter ${at('kind')} --system 'it'\\''s kind'\n`);
    expect(await train('unkind', { datasets: ['kind.jsonl', 'chat.jsonl'], max_steps: 1 })).toMatch(/next {7}lowrank chat --adapter \S+\n/);
  });

  test('a text is continued, and a whole model remembers it like an adapter', async () => {
    const said = await train('texts', { datasets: ['texts.jsonl'], adapter: 'full' });
    expect(said).toContain(`next       lowrank generate --model ${at('texts')} "`);
    expect(await generate('--model', at('texts'), 'once')).toMatchObject({ prompt_tokens: chatml.encode('once').length });
    expect(await generate('--model', at('model'), 'once')).not.toMatchObject({ prompt_tokens: chatml.encode('once').length });
  });

  test('an adapter that was made elsewhere brings its template and tokenizer in files of its own', async () => {
    await train('elsewhere', {});
    rmSync(at('elsewhere', 'lowrank.json'), { force: true });
    writeFileSync(at('elsewhere', 'chat_template.jinja'), '{{ messages[0].content }}!');
    const wanted = { prompt_tokens: chatml.encode('a!').length };
    expect(await generate('--adapter', at('elsewhere'), 'a')).toMatchObject(wanted);
    rmSync(at('elsewhere', 'chat_template.jinja'));
    change(at('elsewhere', 'tokenizer_config.json'), { chat_template: '{{ messages[0].content }}?!' });
    expect(await generate('--adapter', at('elsewhere'), 'a')).toMatchObject({ prompt_tokens: chatml.encode('a?!').length });
    for (const name of ['tokenizer.json', 'tokenizer_config.json']) rmSync(at('elsewhere', name));
    const { prompt_tokens } = await generate('--model', at('model'), 'a');
    expect(await generate('--adapter', at('elsewhere'), 'a')).toMatchObject({ prompt_tokens });
  });
});

describe('answers end where any file or the training says', () => {
  const eos = chatml.tokenToId('<|endoftext|>')!;
  const end = chatml.tokenToId('<|im_end|>')!;
  beforeAll(async () => {
    await writeChainModel(at('writer'), '\n', ['A', 'B', '<|im_end|>', 'C', '<|endoftext|>'], { eos_token_id: eos });
    change(at('writer', 'tokenizer_config.json'), { eos_token: '<|endoftext|>' });
    rows('writer.jsonl', turn('a', 'AB'));
  });

  test('a list in generation_config.json', async () => {
    expect(await generate('--model', at('writer'), 'a')).toMatchObject({ text: 'ABC' });
    writeFileSync(at('writer', 'generation_config.json'), JSON.stringify({ eos_token_id: [eos, end] }));
    expect(await generate('--model', at('writer'), 'a')).toMatchObject({ text: 'AB', finish: 'stop' });
    rmSync(at('writer', 'generation_config.json'));
  });

  test('a stop text that is one special token', async () => {
    expect(await generate('--model', at('writer'), '--stop', '<|im_end|>', 'a')).toMatchObject({ text: 'AB', finish: 'stop' });
  });

  test('the end of a turn that was trained, in generate, eval and a merged model', async () => {
    const settings = { base_model: 'writer', datasets: ['writer.jsonl'], test_datasets: ['writer.jsonl'], learning_rate: 1e-9 };
    await train('ended', settings);
    expect(await generate('--adapter', at('ended'), 'a')).toMatchObject({ text: 'AB' });
    expect(read('ended', 'lowrank.json').terminators).toEqual([{ id: end, token: '<|im_end|>' }]);
    const match = async (...options: string[]) =>
      JSON.parse((await lowrank(['eval', at('ended.yaml'), '--json', ...options])).out).exact_match;
    expect(await match('--adapter', at('ended'))).toBe(1);
    // A model that says nothing of its training is measured by the rows' ends.
    expect(await match()).toBe(1);
    const merged = await lowrank(['merge', '--adapter', at('ended')]);
    expect(merged.out).toMatch(/\nverdict +the same: /);
    expect(read('ended', 'merged', 'generation_config.json').eos_token_id).toEqual([eos, end]);
    expect(await generate('--model', at('ended', 'merged'), 'a')).toMatchObject({ text: 'AB' });
  });
});

test('exact match expects what the template makes of an answer, as the model was taught', async () => {
  const wrapping =
    `{% for m in messages %}<|im_start|>{{ m.role }}:{% if m.role == 'assistant' %}[]{% endif %}{{ m.content ` +
    `}}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant:{% endif %}`;
  await writeChainModel(at('wrapping'), ':', ['[', ']', 'b', '<|im_end|>']);
  change(at('wrapping', 'tokenizer_config.json'), { chat_template: wrapping });
  rows('wrapped.jsonl', turn('a', 'b'));
  const recipe = { base_model: 'wrapping', datasets: ['wrapped.jsonl'], test_datasets: ['wrapped.jsonl'], bf16: false };
  writeFileSync(at('wrapped.yaml'), JSON.stringify(recipe));
  const { out } = await lowrank(['eval', at('wrapped.yaml'), '--json']);
  expect(JSON.parse(out)).toMatchObject({ exact_match: 1, questions: 1, loss: expect.closeTo(0, 3) });
});

describe('a base is found again', () => {
  test('from any folder, and never taken for a model of the hub', async () => {
    mkdirSync(at('models'));
    await writeTinyModel(at('models', 'llama'));
    const cwd = process.cwd();
    await train('moved', { base_model: 'models/llama' });
    const base = resolve(at('models', 'llama'));
    expect(read('moved', 'adapter_config.json').base_model_name_or_path).toBe(base);
    expect(process.cwd()).toBe(cwd);
    expect(await generate('--adapter', at('moved'), 'a')).toMatchObject({ finish: expect.any(String) });
    renameSync(base, at('models', 'gone'));
    const lost = await lowrank(['generate', '--adapter', at('moved'), 'a'], { env: { HF_ENDPOINT: 'http://127.0.0.1:9' } });
    expect(lost.code).toBe(1);
    expect(lost.err).toContain(`the adapter’s base ${base} cannot be opened: there is no such file or folder`);
    expect(lost.err).toContain('name the base with --model');
    expect(lost.err).not.toContain('127.0.0.1');
    expect(await generate('--adapter', at('moved'), '--model', at('models', 'gone'), 'a')).toMatchObject({ finish: expect.any(String) });
  });

  test('and told from its sibling by tokenizer, config or weights, wherever it lies', async () => {
    await train('based', {});
    const warned = async (name: string) =>
      (await lowrank(['generate', '--adapter', at('based'), '--model', at(name), '--max-new-tokens', '1', 'a'])).err;
    await writeTinyModel(at('same'));
    expect(await warned('same')).not.toMatch(/another base/);
    await writeTinyModel(at('sibling'));
    const { added_tokens: added, ...tokenizer } = read('sibling', 'tokenizer.json');
    writeFileSync(at('sibling', 'tokenizer.json'), JSON.stringify({ ...tokenizer, added_tokens: added.slice(0, -1) }));
    expect(await warned('sibling')).toMatch(/another base/);
  });
});

describe('a run that goes on', () => {
  const dated = `{% for m in messages %}<|im_start|>{{ m.role }} {{ strftime_now('%d %b %Y') }}\n{{ m.content }}<|im_end|>\n{% endfor %}`;

  test('sees the day of its beginning in templates, in another zone too', async () => {
    const settings = { num_epochs: 2, save_steps: 1, chat_template_jinja: dated };
    writeFileSync(
      at('dated.yaml'),
      JSON.stringify({ base_model: 'model', datasets: ['chat.jsonl'], output_dir: at('dated'), bf16: false, ...settings }),
    );
    // These zones are 25 hours apart: it is never the same day in both.
    expect(await lowrank(['train', at('dated.yaml')], { env: { TZ: 'Pacific/Kiritimati' } })).toMatchObject({ code: 0 });
    const resumed = await lowrank(['train', at('dated.yaml'), '--resume', at('dated', 'checkpoint-2')], {
      env: { TZ: 'Pacific/Pago_Pago' },
    });
    expect(resumed).toMatchObject({ code: 0 });
    const [first, later] = ['checkpoint-1', ''].map((name) => read('dated', name, 'lowrank.json').clock);
    expect(later).toBe(first);
  });

  test('has each step once in its log', async () => {
    const settings = { num_epochs: 3, save_steps: 1, save_total_limit: 9 };
    await train('logged', settings);
    const lines = () => {
      const log = readFileSync(at('logged', 'trainer_log.jsonl'), 'utf8');
      return [...log.matchAll(/"current_steps":(\d+),"total/g)].map(([, step]) => Number(step));
    };
    expect(lines()).toEqual([1, 2, 3, 4, 5, 6]);
    // Cut off as by a killed process.
    writeFileSync(at('logged', 'trainer_log.jsonl'), '{"current_st', { flag: 'a' });
    await train('logged', settings, '--resume', at('logged', 'checkpoint-2'));
    expect(lines()).toEqual([1, 2, 3, 4, 5, 6]);
    expect(readFileSync(at('logged', 'trainer_log.jsonl'), 'utf8')).not.toContain('{"current_st{');
  });
});

describe('what a recipe means', () => {
  test('max_steps stands instead of epochs, and the card says so', async () => {
    const said = await train('steps', { max_steps: 7 });
    expect(said).toMatch(/steps {6}7 \(2 an epoch\)[\s\S]*done {7}7 steps/);
    expect(readFileSync(at('steps', 'README.md'), 'utf8')).toMatch(/for 7 steps at/);
    expect((await lowrank(['train', '--help'])).out).toMatch(/max_steps +optimizer steps instead of num_epochs/);
  });

  test('an adapter to begin with keeps its settings, and says which the recipe’s do not count', async () => {
    await train('first', { lora_alpha: 8 });
    const said = await train('second', { lora_model_dir: at('first'), lora_r: 4, lora_alpha: 32 });
    expect(said).toMatch(/warning: lora_model_dir: .*lora_r is 2, and the recipe’s 4 does not count; lora_alpha is 8, and the recipe’s 32/);
    expect(said).not.toMatch(/another base/);
    expect(read('second', 'adapter_config.json')).toMatchObject({ r: 2, lora_alpha: 8 });
    await writeTinyModel(at('other'), { rms_norm_eps: 1e-4 });
    const onOther = await train('third', { base_model: 'other', lora_model_dir: at('first'), max_steps: 1 });
    expect(onOther).toMatch(/warning: lora_model_dir: the adapter was trained on another base/);
  });

  test('~ is a home, in every path of a recipe', async () => {
    const env = { HOME: root };
    const recipe = { base_model: '~/model', datasets: ['~/chat.jsonl'], output_dir: '~/homely', bf16: false, max_steps: 1 };
    writeFileSync(at('homely.yaml'), JSON.stringify(recipe));
    expect(await lowrank(['train', at('homely.yaml')], { env })).toMatchObject({ code: 0 });
    expect(existsSync(at('homely', 'adapter_model.safetensors'))).toBe(true);
    const answered = await lowrank(['generate', '--adapter=~/homely', '--model=~/model', '--max-new-tokens', '1', 'a'], { env });
    expect(answered).toMatchObject({ code: 0 });
  });

  test('val_set_size holds something out, however few rows there are', async () => {
    const said = await train('held', { val_set_size: 0.01 });
    expect(said).toMatch(/held-out loss/);
  });

  test('counts of one are singular, and a plan line has no empty list', async () => {
    rows('one.jsonl', turn('a', 'b'), turn('a'.repeat(900), 'b'));
    const said = await train('counted', { datasets: ['one.jsonl'], sequence_len: 32 });
    expect(said).toMatch(/warning: 1 row of one\.jsonl is longer than sequence_len 32 and was dropped/);
    expect(said).toMatch(/done {7}1 step in/);
    expect(said).toMatch(/plan {7}[\d.]+ MB peak: \S/);
  });

  test('a wrong value of a data set is named once', async () => {
    const { err } = await lowrank(['train', at('steps.yaml'), 'datasets.0.type=foo', 'datasets=[{path: a.jsonl, type: foo}]']);
    const wrong = await lowrank(['train', at('steps.yaml'), 'datasets=[{path: a.jsonl, type: foo}]']);
    expect(err).not.toMatch(/datasets\.0\.type: datasets\.0\.type/);
    expect(wrong.err).toMatch(/datasets\.0\.type: Invalid option[\s\S]*expected: format; default: recognised/);
    expect(wrong.err).not.toMatch(/datasets\.0\.type: datasets\.0\.type/);
  });
});

describe('what cannot be trained is refused at once, by name', () => {
  test('a family that is not known, before its data, and before a plan recommends a method', async () => {
    await writeTinyModel(at('strange'), { model_type: 'strange' });
    rows('broken.jsonl', { messages: [{ role: 'user', content: 'no answer' }] });
    writeFileSync(at('strange.yaml'), JSON.stringify({ base_model: 'strange', datasets: ['broken.jsonl'], output_dir: at('strange-out') }));
    for (const command of ['train', 'plan']) {
      const { code, out, err } = await lowrank([command, at('strange.yaml')]);
      expect([code, out]).toEqual([1, '']);
      expect(err).toContain(`${at('strange')}: config.json: model_type "strange" is not supported`);
    }
    const setting = await lowrank(['train', at('strange.yaml'), `base_model=${await writeTinyModel(at('gelu'), { hidden_act: 'gelu' })}`]);
    expect(setting.err).toContain(`${at('gelu')}: config.json: hidden_act`);
  });

  test('a weight with NaN, in training, answering, evaluating and merging, quantised too', async () => {
    await writeTinyModel(at('nan'));
    const path = at('nan', 'model.safetensors');
    const bytes = readFileSync(path);
    const header = Number(bytes.readBigUInt64LE());
    const { data_offsets } = JSON.parse(bytes.subarray(8, 8 + header).toString())['model.layers.1.mlp.up_proj.weight'];
    bytes.writeFloatLE(Number.NaN, 8 + header + data_offsets[0] + 40);
    writeFileSync(path, bytes);
    await train('whole', { max_steps: 1 });
    const commands = [
      ['train', at('whole.yaml'), 'base_model=nan', '--overwrite'],
      ['train', at('whole.yaml'), 'base_model=nan', '--overwrite', 'adapter=qlora'],
      ['eval', at('whole.yaml'), 'base_model=nan', 'test_datasets=[chat.jsonl]'],
      ['generate', '--model', at('nan'), 'a'],
      ['merge', '--model', at('nan'), '--adapter', at('whole')],
    ];
    for (const args of commands) {
      const { code, err } = await lowrank(args);
      expect(code, args.join(' ')).toBe(1);
      expect(err).toContain('tensor "model.layers.1.mlp.up_proj.weight": holds NaN or infinity');
    }
  });
});

test('a checkpoint without the model. prefix loads, trains and merges', async () => {
  await writeTinyModel(at('bare'), {}, 'F32', (name) => name.replace(/^model\./, ''));
  await train('bare-out', { base_model: 'bare', max_steps: 1 });
  expect(await generate('--model', at('bare'), 'a')).toEqual({
    ...(await generate('--model', at('model'), 'a')),
    tokens_per_second: expect.any(Number),
  });
  expect(await lowrank(['merge', '--adapter', at('bare-out')])).toMatchObject({ code: 0, out: expect.stringMatching(/verdict +the same/) });
});

test('a plan knows the recipe’s data, and gives the time of a step and of the run as ranges', async () => {
  writeFileSync(
    at('planned.yaml'),
    JSON.stringify({ base_model: 'model', datasets: ['chat.jsonl'], sequence_len: 512, micro_batch_size: 2, num_epochs: 50 }),
  );
  const { out } = await lowrank(['plan', at('planned.yaml'), '--method', 'lora', '--json']);
  const plan = JSON.parse(out);
  const tokens = chatml.encode('<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n').length;
  expect(plan.micro_batch_tokens).toBeLessThanOrEqual(4 * tokens);
  expect(plan.methods[0].run).toMatchObject({ steps: 50 });
  const { code, out: shown } = await lowrank(['plan', at('planned.yaml')]);
  expect(code).toBe(0);
  expect(shown).toMatch(/50 steps over [\d,]+ tokens of the recipe’s data/);
  const time = String.raw`(–|[\d.,]+–[\d.,]+ (ms|s|min|h|days))`;
  if (plan.methods[0].seconds_per_step) expect(shown).toMatch(new RegExp(`a step +${time} +${time} +${time}\nthe whole run +${time}`));
  expect(shown).not.toMatch(/e[+-]\d/);
});
