/** A base whose file somebody cuts off while it is mapped: touching what is gone would end the process by SIGBUS. */
import { spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { lowrank } from '../helpers/cli.js';
import { describeNative, notRun } from '../helpers/native.js';
import { writeRows, writeTinyModel } from '../helpers/tiny-model.js';

const root = mkdtempSync(join(tmpdir(), 'lowrank-cut-'));
const at = (...names: string[]) => join(root, ...names);
const weights = at('model', 'model.safetensors');
let whole: Buffer;
beforeAll(async () => {
  await writeTinyModel(at('model'));
  whole = readFileSync(weights);
  writeRows(at('train.jsonl'), 20);
});
afterAll(() => rmSync(root, { recursive: true, force: true }));

const message = new RegExp(
  `${weights}: was cut off, or cannot be read any more, while it was in use[\\s\\S]*to mend: write or download it again`,
);

if (process.platform === 'win32') notRun('a mapped base that is cut off', 'the system keeps mapped files whole');
else
  describeNative('a mapped base that is cut off', () => {
    test('ends a run with an error that names the file, and its checkpoints stay', async () => {
      const recipe = { base_model: 'model', datasets: ['train.jsonl'], micro_batch_size: 4, bf16: false, lora_r: 4, save_steps: 2 };
      writeFileSync(at('out.yaml'), JSON.stringify({ ...recipe, output_dir: at('out'), max_steps: 20_000, save_total_limit: 10_000 }));
      let cut = false;
      const run = await lowrank(['train', at('out.yaml')], {
        onError: (text) => {
          if (!cut && text.includes('checkpoint-4\n')) truncateSync(weights, 8192);
          cut ||= text.includes('checkpoint-4\n');
        },
      });
      expect(run.code, run.err).toBe(1);
      expect(run.err).toMatch(message);
      const left = readdirSync(at('out'));
      expect(left.filter((name) => name.startsWith('.') || name.startsWith('adapter'))).toEqual([]);
      expect(left).toContain('checkpoint-4');
    });

    test('ends a chat’s answer with an error that names the file', async () => {
      writeFileSync(weights, whole);
      const env = { ...process.env, NO_COLOR: '1', LOWRANK_THREADS: '2' };
      const child = spawn(process.execPath, ['dist/cli/main.js', 'chat', '--model', at('model'), '--max-new-tokens', '4'], { env });
      let [err, cut] = ['', false];
      child.stderr.on('data', (part) => {
        err += part;
        if (cut || !err.includes('lists the commands')) return;
        cut = true;
        truncateSync(weights, 0);
        child.stdin.end('hello\n');
      });
      const [code, signal] = await new Promise<[number | null, string | null]>((done) => child.on('close', (...end) => done(end)));
      expect({ code, signal }, err).toEqual({ code: 1, signal: null });
      expect(err).toMatch(message);
    });
  });
