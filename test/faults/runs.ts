/** Runs as children that are killed or fail at one of their file operations, and what they leave. */
import { spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type RecipeInput, type RunOptions, startRun } from '../../src/index.js';
import { withoutNative } from '../helpers/native.js';
import { writeRows, writeTinyModel } from '../helpers/tiny-model.js';

/** Bits depend on them. */
const threads = 2;
export const device = withoutNative === undefined ? 'cpu' : 'reference';

/** Steps are few, but each kind saves twice, removes a checkpoint, evaluates and writes its result. */
const common = { num_epochs: 1, micro_batch_size: 4, save_steps: 2, save_total_limit: 1, bf16: false } as const;
/** Each tensor of a file is an operation of its own: one linear layer has few. */
const one = { lora_target_linear: false, lora_target_modules: ['q_proj'] };

/** What is killed. Paged states are those of 10⁵ elements and more, and leave memory above `memory_limit`. */
export const kinds = {
  LoRA: { ...common, ...one, lora_r: 4, lora_dropout: 0.1 },
  'QLoRA with paged 8-bit states': {
    ...common,
    ...one,
    adapter: 'qlora',
    optimizer: 'paged_adamw_8bit',
    memory_limit: 0.001,
    lora_r: 2100,
  },
  'a whole model': { ...common, adapter: 'full' },
} satisfies Record<string, Partial<RecipeInput>>;
export type Kind = keyof typeof kinds;

export interface Faults {
  kill?: number;
  code?: 'ENOSPC' | 'EROFS' | 'EIO';
  from?: number;
}

export interface Ended {
  code: number | null;
  signal: NodeJS.Signals | null;
  err: string;
  /** What was counted, unless the run was killed. */
  operations: string[];
}

/** A folder with a tiny model and rows, for runs of every kind. */
export class Workbench {
  readonly root = mkdtempSync(join(tmpdir(), 'lowrank-faults-'));
  private count = 0;

  at(...names: string[]): string {
    return join(this.root, ...names);
  }

  async prepare(): Promise<void> {
    process.env.LOWRANK_THREADS = String(threads);
    await writeTinyModel(this.at('model'), { num_hidden_layers: 1 });
    writeRows(this.at('train.jsonl'), 16, 1);
    writeRows(this.at('test.jsonl'), 3, 2);
  }

  dispose(): void {
    rmSync(this.root, { recursive: true, force: true });
  }

  recipe(kind: Kind, folder: string): RecipeInput {
    const files = { base_model: 'model', datasets: ['train.jsonl'], test_datasets: ['test.jsonl'] };
    return { ...files, ...kinds[kind], output_dir: folder };
  }

  /** An output folder that is not there yet. */
  folder(): string {
    return this.at(`out-${this.count++}`);
  }

  /** Trains in a process of its own with these faults; `under` is a command that runs it; after `time` milliseconds it is killed. */
  async start(
    kind: Kind,
    folder: string,
    faults: Faults = {},
    args: readonly string[] = [],
    under: readonly string[] = [],
    time?: number,
  ): Promise<Ended> {
    const name = this.at(`${this.count++}.yaml`);
    writeFileSync(name, JSON.stringify(this.recipe(kind, folder)));
    const report = `${name}.operations`;
    const [program, ...command] = [
      ...under,
      process.execPath,
      '--import',
      './test/faults/preload.mjs',
      'dist/cli/main.js',
      'train',
      name,
      '--device',
      device,
      ...args,
    ];
    const env = { ...process.env, NO_COLOR: '1', LOWRANK_FAULTS: JSON.stringify({ ...faults, folder, report }) };
    const child = spawn(program, command, { env, stdio: ['ignore', 'ignore', 'pipe'] });
    let err = '';
    child.stderr.on('data', (part) => {
      err += part;
    });
    const timer = time === undefined ? undefined : setTimeout(() => child.kill('SIGKILL'), time);
    const [code, signal] = await new Promise<[number | null, NodeJS.Signals | null]>((done) => child.on('close', (...end) => done(end)));
    clearTimeout(timer);
    const operations = signal === null ? (JSON.parse(readFileSync(report, 'utf8')) as string[]) : [];
    return { code, signal, err, operations };
  }

  /** Trains in this process without faults. */
  async whole(
    kind: Kind,
    folder: string,
    options: Partial<RunOptions> = {},
    more: Partial<RecipeInput> = {},
  ): Promise<Record<string, string>> {
    await startRun({ ...this.recipe(kind, folder), ...more }, { near: this.root, device, ...options });
    return filesOf(folder);
  }

  /** Whether the newest checkpoint is of a run with this seed. */
  isOfSeed(folder: string, seed: number): boolean {
    const steps = namesIn(folder).flatMap((name) => Number(/^checkpoint-(\d+)$/.exec(name)?.[1] ?? []));
    const state = readFileSync(join(folder, `checkpoint-${Math.max(...steps)}`, 'trainer_state.json'), 'utf8');
    return JSON.parse(state).recipe.seed === seed;
  }

  /** Goes on in this process from what a run has left, or begins where it left nothing to go on from. */
  async finish(kind: Kind, folder: string): Promise<Record<string, string>> {
    const files = await this.whole(kind, folder, { resume: namesIn(folder).some((name) => name.startsWith('checkpoint-')) });
    rmSync(folder, { recursive: true });
    return files;
  }
}

/** What is in a folder that may not be there. */
export function namesIn(folder: string): string[] {
  return statSync(folder, { throwIfNoEntry: false }) ? readdirSync(folder) : [];
}

/** Every file of a run's folder, byte for byte but for what tells the time or where it lies. */
export function filesOf(folder: string): Record<string, string> {
  const names = readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter((name) => !statSync(join(folder, name)).isDirectory());
  const read = (name: string) => {
    const content = readFileSync(join(folder, name), 'latin1').replaceAll(folder, 'FOLDER');
    if (name.endsWith('lowrank.json')) return content.replace(/"clock": "[^"]*"/, '');
    return name === 'trainer_log.jsonl' ? content.replace(/"(elapsed_time|remaining_time|throughput)":[^,]*,/g, '') : content;
  };
  return Object.fromEntries(names.sort().map((name) => [name, read(name)]));
}

/** What differs between two folders' files, in words: nothing is the same as nothing lost, nothing left over, no bit changed. */
export function differences(found: Record<string, string>, wanted: Record<string, string>): string[] {
  const names = [...new Set([...Object.keys(found), ...Object.keys(wanted)])].sort();
  return names.flatMap((name) => {
    if (found[name] === wanted[name]) return [];
    return `${name} ${wanted[name] === undefined ? 'is left over' : found[name] === undefined ? 'is missing' : 'differs'}`;
  });
}

/** The operations that differ by more than the process and the tensor, by their numbers from 1: every kind of moment there is. */
export function differentMoments(operations: readonly string[]): number[] {
  const seen = new Map<string, number>();
  for (const [i, operation] of operations.entries()) {
    const moment = operation.replaceAll(/\.\d+-\d*-\d+@[\w-]+\.(tmp|old)/g, '.$1');
    if (!seen.has(moment)) seen.set(moment, i + 1);
  }
  return [...seen.values()];
}

/** Of a list so many, evenly spread. */
export function spread<T>(all: readonly T[], count: number): T[] {
  const most = Math.min(count, all.length);
  return Array.from({ length: most }, (_, i) => all[Math.floor(((i + 0.5) * all.length) / most)]);
}
