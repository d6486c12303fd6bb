import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { lowrank } from '../helpers/cli.js';
import { testNative, withoutNative } from '../helpers/native.js';
import { tinyConfig, writeRows, writeTinyModel } from '../helpers/tiny-model.js';

const folder = mkdtempSync(join(tmpdir(), 'lowrank-cli-'));
const at = (...names: string[]) => join(folder, ...names);

function recipe(name: string, ...lines: string[]): string {
  const path = at(`${name}.yaml`);
  const common = [
    'base_model: model',
    'datasets: [train.jsonl]',
    'test_datasets: [test.jsonl]',
    `output_dir: ${at(name)}`,
    'eval_max_new_tokens: 8',
  ];
  writeFileSync(path, [...common, 'micro_batch_size: 4', 'learning_rate: 0.01', 'lora_r: 4', 'bf16: false', ...lines].join('\n'));
  return path;
}

beforeAll(async () => {
  await writeTinyModel(at('model'));
  writeRows(at('train.jsonl'), 20, 1);
  writeRows(at('test.jsonl'), 6, 2);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe('the way of a user', () => {
  test('a reader that has seen enough ends a command quietly', () => {
    const { stdout, stderr } = spawnSync('sh', ['-c', 'node dist/cli/main.js train --help | head -n 1'], { encoding: 'utf8' });
    expect([stdout, stderr]).toEqual(['Usage: lowrank train [options] <recipe> [key=value...]\n', '']);
  });

  testNative('a profile of one step is a Chrome trace', async () => {
    const trained = await lowrank(['train', recipe('profiled', 'max_steps: 3'), '--profile', at('trace.json')]);
    expect(trained).toMatchObject({ code: 0 });
    expect(trained.err).toContain(`step 3 in ${at('trace.json')}`);
    const { traceEvents } = JSON.parse(readFileSync(at('trace.json'), 'utf8')) as { traceEvents: { name: string; tid: number }[] };
    expect(traceEvents.filter(({ tid }) => tid === 0).map(({ name }) => name)).toEqual([
      'thread_name',
      'forward',
      'loss',
      'backward',
      'update',
    ]);
    const refused = await lowrank(['train', recipe('refused-profile'), '--device', 'reference', '--profile', at('none.json')]);
    expect(refused.code).toBe(1);
    expect(refused.err).toMatch(/keeps no profile/);
    expect(existsSync(at('none.json'))).toBe(false);
  });

  testNative('quantize, then train on it, streamed and not: the same adapter', async () => {
    const quantized = await lowrank(['quantize', '--model', at('model'), '--out', at('model-4bit'), '--double', '--json']);
    expect(quantized).toMatchObject({ code: 0 });
    expect(JSON.parse(quantized.out)).toMatchObject({ out: at('model-4bit'), format: 'nf4' });
    const again = await lowrank(['quantize', '--model', at('model-4bit'), '--out', at('twice')]);
    expect(again.err).toMatch(/quantised already/);
    const lines = ['max_steps: 2', 'gradient_checkpointing: true', 'optimizer: paged_adamw_8bit'];
    const runs = [
      recipe('from-4bit', ...lines, 'stream_base: false'),
      recipe('qlora', ...lines, 'adapter: qlora', 'stream_base: false'),
      recipe('streamed', ...lines, 'adapter: qlora', 'stream_base: true'),
    ];
    const env = { HF_HUB_CACHE: at('cache') };
    for (const [i, path] of runs.entries()) {
      const trained = await lowrank(['train', path, 'bf16=true', ...(i === 0 ? [`base_model=${at('model-4bit')}`] : [])], { env });
      expect(trained).toMatchObject({ code: 0 });
      expect(trained.err).toMatch(/plan {7}\d/);
      expect(trained.err).toMatch(/peak, planned \d/);
      expect(/streamed {3}\d/.test(trained.err)).toBe(i === 2);
    }
    // The header names the base.
    const weights = ['from-4bit', 'qlora', 'streamed'].map((name) => {
      const bytes = readFileSync(at(name, 'adapter_model.safetensors'));
      return bytes.subarray(8 + Number(bytes.readBigUInt64LE())).toString('hex');
    });
    expect(new Set(weights).size).toBe(1);
    const { findings } = JSON.parse((await lowrank(['doctor', '--json'], { env })).out);
    expect(findings).toContainEqual(
      expect.objectContaining({ name: 'streamed bases', value: expect.stringMatching(/quantized, [1-9].* kB; may be removed/) }),
    );
  });

  test('a plan of a recipe and of a shape; what cannot fit is refused', async () => {
    const planned = await lowrank(['plan', recipe('planned'), '--json']);
    expect(JSON.parse(planned.out).methods.map(({ method }: { method: string }) => method)).toEqual(['full', 'lora', 'qlora']);
    const narrow = await lowrank(['plan', recipe('planned', 'lora_target_modules: [q_proj]'), 'lora_r=2', '--method', 'lora', '--json']);
    const { num_hidden_layers: layers, hidden_size: width } = tinyConfig;
    const trainable = layers * 2 * (width + width);
    expect(JSON.parse(narrow.out).methods).toMatchObject([{ method: 'lora', trainable_parameters: trainable }]);
    const arithmetic = await lowrank(['plan', '--model', 'llama-2-7b', '--method', 'qlora', '--json']);
    expect(JSON.parse(arithmetic.out)).toMatchObject({
      parameters: 6_738_415_616,
      arithmetic: {
        full_16_bit_nominal: { weights: 14e9, gradients: 14e9, adam: 28e9 },
        low_rank: { trained: 65_536, percent_fewer: 99.6 },
      },
    });
    const shape = await lowrank(['plan', '--model', 'llama-2-7b', '--method', 'qlora', '--memory', '8GB']);
    expect(shape.out).toMatch(/llama-2-7b: 6,738,415,616 parameters/);
    expect(shape.out).toMatch(/recommended: qlora/);
    expect(shape.out.split('\n').every((line) => line.length <= 110)).toBe(true);
    const unknown = await lowrank(['plan', '--model', 'llama-2-8b'], { env: { HF_HUB_OFFLINE: '1' } });
    expect(unknown.err).toMatch(/write "llama-2-7b"/);
    await writeTinyModel(at('deep'), { num_hidden_layers: 400 });
    const large = [recipe('large'), `base_model=${at('deep')}`, 'lora_r=65536'];
    const refused = await lowrank(['train', ...large]);
    expect(refused.code).toBe(1);
    expect(refused.err).toMatch(/the run would hold \d+\.\d+ GB of memory[\s\S]*--force/);
    expect(existsSync(at('large'))).toBe(false);
    // With --force it goes on to what else is wrong.
    const forced = await lowrank(['train', ...large, '--force', '--device', 'reference', '--profile', at('none.json')]);
    expect(forced.err).toMatch(/keeps no profile/);
    expect(forced.err).not.toMatch(/the run would hold/);
    const neither = await lowrank(['plan']);
    expect(neither.err).toMatch(/one of a recipe and --model/);
  });

  test('train, eval, generate, merge, generate with the merged model', async () => {
    const path = recipe('run', 'num_epochs: 2');
    const trained = await lowrank(['train', path, '--json']);
    expect(trained).toMatchObject({ code: 0 });
    expect(JSON.parse(trained.out)).toMatchObject({ steps: 10, total_steps: 10, interrupted: false, adapter_dir: at('run') });
    expect(trained.err).toMatch(/trainable of/);
    expect(trained.err).toMatch(/step 10\/10 /);

    const base = JSON.parse((await lowrank(['eval', path, '--json'])).out);
    const tuned = JSON.parse((await lowrank(['eval', path, '--json', '--adapter', at('run')])).out);
    expect(base).toMatchObject({ adapter: null, questions: 6 });
    expect(tuned.loss).toBeLessThan(base.loss);

    const sampling = ['--json', '--max-new-tokens', '12'];
    const answer = JSON.parse((await lowrank(['generate', ...sampling, '--adapter', at('run'), 'abc'])).out);
    expect(answer.tokens).toBeLessThanOrEqual(12);
    const piped = JSON.parse((await lowrank(['generate', ...sampling, '--adapter', at('run')], { input: 'abc\n' })).out);
    expect(piped.text).toBe(answer.text);

    const merged = JSON.parse((await lowrank(['merge', '--json', '--adapter', at('run'), '--max-shard-size', '40kB'])).out);
    expect(merged.largest_logit_difference).toBeLessThan(1e-3);
    expect(readdirSync(at('run', 'merged'))).toEqual(
      expect.arrayContaining(['config.json', 'model.safetensors.index.json', 'tokenizer.json']),
    );
    const whole = JSON.parse((await lowrank(['generate', ...sampling, '--model', at('run', 'merged'), 'abc'])).out);
    expect(whole.text).toBe(answer.text);
  });

  test('full fine-tuning: train, eval, generate; what is for adapters is refused', async () => {
    const path = recipe('whole', 'adapter: null', 'num_epochs: 2');
    const trained = await lowrank(['train', path, '--json']);
    expect(trained).toMatchObject({ code: 0 });
    const result = JSON.parse(trained.out);
    expect(result).toMatchObject({ steps: 10, model_dir: at('whole') });
    expect(result).not.toHaveProperty('adapter_dir');
    expect(trained.err).toMatch(/parameters ([\d,. ]+) trainable of \1 \(100\.00 %\)/);
    expect(trained.err).toContain(`next       lowrank chat --model ${at('whole')}`);

    const base = JSON.parse((await lowrank(['eval', path, '--json'])).out);
    const tuned = JSON.parse((await lowrank(['eval', path, `base_model=${at('whole')}`, '--json'])).out);
    expect(tuned.loss).toBeLessThan(base.loss);
    expect((await lowrank(['generate', '--model', at('whole'), '--max-new-tokens', '4', 'abc'])).code).toBe(0);

    const merged = await lowrank(['merge', '--adapter', at('whole')]);
    expect(merged.code).toBe(1);
    expect(merged.err).toMatch(/whole: holds a whole model, not an adapter\n.*\n.*nothing to merge/);
    expect((await lowrank(['train', path])).err).toMatch(/holds an earlier run/);
    expect((await lowrank(['train', path, '--resume'])).err).toMatch(/nothing left to train[\s\S]*\(base_model\)/);
    const onto = await lowrank(['train', path, `output_dir=${at('model')}`, '--overwrite']);
    expect(onto.err).toMatch(/output_dir is the base model’s folder/);
  });

  test('Ctrl-C finishes the step, saves and exits 130; --resume goes on', async () => {
    const path = recipe('stopped', 'num_epochs: 400', 'save_steps: 100000', 'evals_per_epoch: 1');
    let sent = false;
    const stopped = await lowrank(['train', path], {
      onError: (text, kill) => {
        if (!sent && text.includes('step 3/')) {
          sent = true;
          kill();
        }
      },
    });
    expect(stopped.code).toBe(130);
    expect(stopped.err).toMatch(/--resume/);
    const [checkpoint] = readdirSync(at('stopped')).filter((name) => name.startsWith('checkpoint-'));
    const step = Number(checkpoint.split('-')[1]);
    expect(existsSync(at('stopped', 'adapter_model.safetensors'))).toBe(true);
    const refused = await lowrank(['train', path, `max_steps=${step + 2}`, '--resume']);
    expect(refused.err).toMatch(/max_steps/);
    let again = 0;
    const resumed = await lowrank(['train', path, '--resume'], {
      onError: (text, kill) => {
        if (text.includes(`resuming after step ${step}`) && again++ === 0) kill();
      },
    });
    expect(resumed.code).toBe(130);
  });

  test('an earlier run is not overwritten unasked', async () => {
    const path = recipe('kept', 'max_steps: 1');
    expect((await lowrank(['train', path])).code).toBe(0);
    const before = readFileSync(at('kept', 'adapter_model.safetensors'));
    const refused = await lowrank(['train', path]);
    expect(refused.code).toBe(1);
    expect(refused.err).toMatch(/--overwrite/);
    expect(readFileSync(at('kept', 'adapter_model.safetensors')).equals(before)).toBe(true);
    expect((await lowrank(['train', path, 'seed=1', '--overwrite'])).code).toBe(0);
    expect(readFileSync(at('kept', 'adapter_model.safetensors')).equals(before)).toBe(false);
  });

  test('chat: base, adapter, unknown folders', async () => {
    const path = recipe('chatted', 'max_steps: 1');
    await lowrank(['train', path]);
    const input = 'hello\n/base\nhello\n/adapter\n/adapter /nowhere\n/clear\n/help\n/exit\n';
    const { code, err } = await lowrank(['chat', '--adapter', at('chatted'), '--max-new-tokens', '4'], { input });
    expect(code).toBe(0);
    expect(err).toMatch(/answers come from the base model\n/);
    expect(err).toMatch(/\/nowhere: holds no adapter_config.json/);
    expect(err).toMatch(/forget the conversation/);
  });

  test('--preview shows what is supervised and trains nothing', async () => {
    const { code, err } = await lowrank(['train', recipe('previewed'), '--preview']);
    expect(code).toBe(0);
    expect(err).toMatch(/assistant\n‹[a-z]+<\|im_end\|>›/);
    expect(existsSync(at('previewed'))).toBe(false);
  });

  test('doctor finds nothing wrong but a missing native backend', async () => {
    const { code, out } = await lowrank(['doctor', '--json']);
    const { ok, findings } = JSON.parse(out) as { ok: boolean; findings: { name: string; ok: boolean; value: string }[] };
    const wrong = findings.filter((finding) => !finding.ok).map(({ name }) => name);
    expect([code, ok, wrong]).toEqual(withoutNative === undefined ? [0, true, []] : [1, false, ['backend']]);
    expect(findings.find(({ name }) => name === 'fused ops')?.value).toBe(withoutNative === undefined ? 'all' : undefined);
  });

  test('help lists every command and every key of a recipe', async () => {
    expect((await lowrank(['--help'])).out).toMatch(/train[\s\S]*eval[\s\S]*generate[\s\S]*chat[\s\S]*merge[\s\S]*doctor[\s\S]*quickstart/);
    const help = (await lowrank(['train', '--help'])).out;
    expect(help).toMatch(/lora_r +rank \(16\)/);
    expect(help.slice(help.indexOf('Keys of an entry of datasets'))).toMatch(/field_messages +key[\s\S]*message_field_training +key/);
  });
});

describe('what goes wrong ends with one clear error', () => {
  test.each<[string, () => string[], RegExp]>([
    ['no such recipe', () => ['train', at('none.yaml')], /none\.yaml: there is no such file/],
    [
      'a recipe with an unknown key',
      () => ['train', recipe('wrong', 'lora_rank: 1')],
      /wrong\.yaml:10:1: unknown key "lora_rank"\n.*lora_r/s,
    ],
    ['an unknown model', () => ['train', recipe('wrong', 'max_steps: 1'), 'base_model=./nowhere'], /nowhere/],
    ['no such data set', () => ['train', recipe('wrong'), 'datasets=[none.jsonl]'], /none\.jsonl: there is no such file/],
    ['data of another kind', () => ['train', recipe('wrong'), 'datasets=[model/config.json]'], /config\.json/],
    ['no such adapter', () => ['eval', recipe('wrong'), '--adapter', at('none')], /holds no adapter_config\.json/],
    ['an adapter for no model', () => ['generate', '--adapter', at('none'), 'x'], /adapter_config\.json/],
    ['no model at all', () => ['generate', 'x'], /--model/],
    ['a number that is none', () => ['generate', '--model', at('model'), '--temperature', 'hot', 'x'], /Expected a number/],
    ['an unknown command', () => ['tarin'], /Did you mean train/],
    ['an unknown option', () => ['train', '--resum'], /Did you mean --resume/],
    ['a merge onto something', () => ['merge', '--adapter', at('model'), '--out', at('model')], /exists already/],
  ])('%s', async (_, args, message) => {
    const { code, out, err } = await lowrank(args());
    expect(err).toMatch(message);
    expect(code).toBe(1);
    expect(out).toBe('');
    // No stack trace: somebody thought of it.
    expect(err).not.toMatch(/\n {4}at /);
  });

  test('with --json the error is JSON', async () => {
    const { code, out } = await lowrank(['train', at('none.yaml'), '--json']);
    expect(code).toBe(1);
    expect(JSON.parse(out).error).toMatchObject({ place: at('none.yaml'), problem: 'there is no such file' });
  });
});
