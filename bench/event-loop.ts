/**
 * Is JavaScript's thread free while a model trains? Trains SmolLM2 on the bundled data with a timer running beside it, then interrupts the
 * command line once and twice. Prints the figures and writes bench/results/event-loop.json.
 *
 *     npm run prepare && npx tsc -b && node build/bench/event-loop.js
 */
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { performance } from 'node:perf_hooks';
import { Terminal } from '#lowrank/cli/console.js';
import { findQuickstartModel } from '#lowrank/cli/quickstart-model.js';
import { openDatasets, openSession } from '#lowrank/cli/session.js';
import '#lowrank/index.js';
import { localFolder } from '#lowrank/io/node/folder.js';
import { openTextCodec } from '#lowrank/models/text-model.js';
import { prepareData } from '#lowrank/runs/data.js';
import { readRecipe } from '#lowrank/runs/node.js';
import { train } from '#lowrank/runs/train.js';
import { machine, writeResults } from './machine.js';

const root = resolve(import.meta.dirname, '../..');
const recipePath = join(root, 'examples/orders/recipe.yaml');
const folder = mkdtempSync(join(tmpdir(), 'lowrank-bench-'));

/** Notes by how much each turn of a 5 ms timer comes late, in milliseconds. */
class Watch {
  private late: number[] = [];
  private due = performance.now() + 5;
  private readonly timer = setInterval(() => {
    const now = performance.now();
    this.late.push(Math.max(0, now - this.due));
    this.due = now + 5;
  }, 5);

  take(): { turns: number; median_ms: number; p99_ms: number; longest_ms: number } {
    const sorted = this.late.sort((a, b) => a - b);
    const at = (share: number) => Math.round((sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? 0) * 10) / 10;
    this.late = [];
    return { turns: sorted.length, median_ms: at(0.5), p99_ms: at(0.99), longest_ms: at(1) };
  }

  stop(): void {
    clearInterval(this.timer);
  }
}

async function delays(): Promise<object> {
  const watch = new Watch();
  const terminal = new Terminal();
  const recipe = await readRecipe(recipePath, ['max_steps=10', `output_dir=${join(folder, 'delays')}`]);
  const source = await findQuickstartModel(terminal);
  const codec = openTextCodec(source);
  const data = await prepareData(recipe, codec, await openDatasets(recipePath, recipe.datasets), []);
  const preparing = watch.take();
  const session = await openSession(terminal, source, codec, {});
  const loading = watch.take();
  const { tuner } = await train({ recipe, source, text: session.text, data, folder: localFolder(recipe.output_dir) });
  const training = watch.take();
  watch.stop();
  tuner.dispose();
  await session.close();
  return { preparing, loading, training };
}

/** Starts a run, interrupts it after its third step, and again after `again` milliseconds where that is given. */
function interrupted(name: string, again?: number): Promise<object> {
  const output = join(folder, name);
  const child = spawn(
    process.execPath,
    [join(root, 'dist/cli/main.js'), 'train', recipePath, `base_model=${model}`, `output_dir=${output}`],
    {
      stdio: ['ignore', 'ignore', 'pipe'],
    },
  );
  let sent = 0;
  let text = '';
  child.stderr.setEncoding('utf8').on('data', (part: string) => {
    text += part;
    if (sent > 0 || !text.includes('step 3/')) return;
    sent = performance.now();
    child.kill('SIGINT');
    if (again !== undefined) setTimeout(() => child.kill('SIGINT'), again);
  });
  return new Promise((done) => {
    child.on('exit', (code) => {
      const names = existsSync(output) ? readdirSync(output) : [];
      const checkpoints = names.filter((file) => file.startsWith('checkpoint-'));
      const unfinished = names.filter((file) => file.includes('.tmp'));
      done({ exit_code: code, seconds: Math.round(performance.now() - sent) / 1000, checkpoints, unfinished });
    });
  });
}

const measured = await delays();
const source = await findQuickstartModel(new Terminal());
const model = source.checkpoint.tensors.values().next().value?.file.path ?? '';
await source.checkpoint.close();
const results = {
  event_loop_delay: measured,
  interrupted_once: await interrupted('once'),
  interrupted_twice: await interrupted('twice', 300),
};
rmSync(folder, { recursive: true, force: true });
console.log(JSON.stringify(results, null, 2));
writeResults('event-loop', { machine: machine(), ...results });
