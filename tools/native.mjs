/**
 * What building the addon here (build-native.mjs) and for all platforms (prebuild.mjs) share: flags, instruction sets, compiling in
 * parallel. Needs nothing but Node. Sources that open `namespace lowrank::LOWRANK_ISA` are compiled once per instruction set. Objects
 * are named by the hash of all that they are made from: what is up to date is not made again.
 */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

export const root = resolve(dirname(fileURLToPath(import.meta.url)), '..');

/** A reason why nothing can be built here, for people. */
export class Unavailable extends Error {}

// No -ffast-math, whose reordering would differ from machine to machine, and no -march=native, whose binary runs on one machine only.
export const common = [
  '-O3',
  '-std=c++20',
  '-fPIC',
  '-fvisibility=hidden',
  '-fno-math-errno',
  '-fno-trapping-math',
  '-fopenmp-simd',
  '-Wall',
  // Not every set needs every constant.
  '-Wno-unused-const-variable',
];
const avx2 = ['-mavx2', '-mfma', '-mf16c'];
const avx512 = [...avx2, '-mavx512f', '-mavx512bw', '-mavx512vl', '-mavx512dq', '-mprefer-vector-width=512'];
const avx512bf16 = [...avx512, '-mavx512bf16'];
const amx = [...avx512bf16, '-mavx512vbmi', '-mamx-tile', '-mamx-bf16'];
/**
 * Flags by set, as native/platform/processor.cpp names them: from the plainest, which every machine has, to the richest; the linker's
 * choice among equal inline functions relies on this order.
 */
const instructionSets = {
  x64: { generic: [], avx2, avx512, avx512bf16, amx },
  arm64: { neon: [], neonbf16: ['-march=armv8.2-a+bf16'] },
};
export const setsOf = (arch) => instructionSets[arch] ?? { generic: [] };

/** The folder of Node's C headers in node-api-headers, or undefined. */
export function nodeApiHeaders() {
  try {
    return createRequire(import.meta.url)('node-api-headers').include_dir;
  } catch {
    return undefined;
  }
}

/** The text of a source and of the project's headers that it includes, directly or not. */
function contentsOf(path, seen = new Set()) {
  if (seen.has(path)) return '';
  seen.add(path);
  const text = readFileSync(path, 'utf8');
  const included = [...text.matchAll(/^#include "(.+)"/gm)].map((match) => contentsOf(join(dirname(path), match[1]), seen));
  return text + included.join('');
}

/** Whether a source is empty for sets without tile registers: all behind its includes is for them alone. */
function needsTiles(source) {
  const text = readFileSync(source, 'utf8');
  return /^(\/\/.*\n|#include .*\n|\s)*#if defined\(__AMX_BF16__\)/.test(text) && /\} {2}\/\/ namespace.*\n#endif\s*$/.test(text);
}

/**
 * One object to be made per source, or per source and instruction set; plain ones first. `compiler` has command, flags and version, `sets`
 * the flags by name, `include` Node's headers, `objects` the folder, `more` flags for all of them.
 */
export function plan({ compiler, sets, include, objects, more = [] }) {
  const sources = ['kernels', 'napi', 'platform'].flatMap((folder) =>
    readdirSync(join(root, 'native', folder))
      .filter((name) => name.endsWith('.cpp'))
      .map((name) => join(root, 'native', folder, name)),
  );
  const perSet = sources.filter((path) => readFileSync(path, 'utf8').includes('namespace lowrank::LOWRANK_ISA {'));
  const base = [...compiler.flags, ...common, ...more, '-I', include];
  const names = Object.keys(sets);
  const once = (source) => [
    '-DNAPI_VERSION=8',
    `-DLOWRANK_ISA=${names[0]}`,
    ...(readFileSync(source, 'utf8').includes('LOWRANK_ISAS') ? [`-DLOWRANK_ISAS=${names.map((name) => `X(${name})`).join(' ')}`] : []),
  ];
  const jobs = [
    ...sources.filter((path) => !perSet.includes(path)).map((source) => ({ source, flags: [...base, ...once(source)] })),
    ...names.flatMap((set) =>
      perSet
        .filter((source) => sets[set].includes('-mamx-bf16') || !needsTiles(source))
        .map((source) => ({ source, flags: [...base, `-DLOWRANK_ISA=${set}`, ...sets[set]] })),
    ),
  ];
  return jobs.map((job) => {
    const contents = contentsOf(job.source);
    const hash = createHash('sha256').update(JSON.stringify([compiler.version, compiler.command, job.flags, contents]));
    return { ...job, object: join(objects, `${hash.digest('hex').slice(0, 32)}.o`), cost: readFileSync(job.source).length };
  });
}

/** Runs the compiler into a temporary file that takes its place only when it is whole; returns its warnings. */
async function produce(compiler, output, args) {
  const temporary = `${output}.${process.pid}.tmp`;
  try {
    const { stderr } = await promisify(execFile)(compiler.command, [...args, '-o', temporary], { maxBuffer: 1 << 26, env: compiler.env });
    renameSync(temporary, output);
    return stderr;
  } finally {
    rmSync(temporary, { force: true });
  }
}

/** Says how far a build is: on a terminal in one line that is rewritten, else in a line every ten seconds. */
class Progress {
  #total;
  #done = 0;
  /** What is compiled now: the job, and when it began. */
  #running = new Map();
  #waiting;
  #workers;
  /** Seconds that a unit of cost has taken so far; unknown before the first part is done. */
  #seconds = 0;
  #finished = 0;
  #timer;
  #live = process.stderr.isTTY === true && process.env.TERM !== 'dumb';

  constructor(jobs, workers) {
    this.#total = jobs.length;
    this.#workers = workers;
    this.#waiting = jobs.reduce((sum, { cost }) => sum + cost, 0);
    this.#timer = setInterval(() => this.#show(), this.#live ? 200 : 10_000);
    this.#show();
  }

  begin(job) {
    this.#waiting -= job.cost;
    this.#running.set(job, performance.now());
  }

  end(job, warnings) {
    this.#seconds += (performance.now() - this.#running.get(job)) / 1000;
    this.#finished += job.cost;
    this.#running.delete(job);
    this.#done++;
    if (warnings) process.stderr.write(`${this.#live ? '\r\x1b[2K' : ''}${warnings}`);
  }

  close() {
    clearInterval(this.#timer);
    if (this.#live) process.stderr.write('\r\x1b[2K');
  }

  #remaining() {
    const pace = this.#seconds / this.#finished;
    const now = performance.now();
    const left = [...this.#running].map(([{ cost }, since]) => Math.max(cost * pace - (now - since) / 1000, 1));
    // The last part that is under way ends it, or all cores at work.
    return Math.max(left.reduce((sum, seconds) => sum + seconds, this.#waiting * pace) / this.#workers, ...left);
  }

  #show() {
    const remaining = this.#finished > 0 ? `, about ${Math.ceil(this.#remaining())} s left` : '';
    const line = `lowrank: ${this.#done} of ${this.#total} parts compiled${remaining}`;
    process.stderr.write(this.#live ? `\r\x1b[2K${line}` : `${line}\n`);
  }
}

/** Compiles what is missing of these jobs, the longest first, on all cores; says for which instruction sets and `purpose` it does. */
export async function compile(compiler, jobs, sets, purpose = '') {
  const missing = jobs.filter(({ object }) => !existsSync(object)).sort((a, b) => b.cost - a.cost);
  if (missing.length === 0) return;
  const workers = Math.min(availableParallelism(), missing.length);
  console.error(`lowrank: compiling${purpose} (${sets.join(', ')})`);
  const progress = new Progress(missing, workers);
  const queue = missing.values();
  let failed = false;
  const work = async () => {
    for (const job of queue) {
      if (failed) return;
      progress.begin(job);
      progress.end(job, await produce(compiler, job.object, [...job.flags, '-c', job.source]));
    }
  };
  const stopOthers = (error) => {
    failed = true;
    throw error;
  };
  try {
    await Promise.all(Array.from({ length: workers }, () => work().catch(stopOthers)));
  } finally {
    progress.close();
  }
}

/** Links the objects of jobs into `target`, if that was made from others, and forgets all other objects beside them. */
export async function link(compiler, jobs, flags, target) {
  const folder = dirname(jobs[0].object);
  const stamp = join(folder, 'linked');
  const objects = jobs.map(({ object }) => object);
  const wanted = [...flags, ...objects].join('\n');
  if (existsSync(target) && existsSync(stamp) && readFileSync(stamp, 'utf8') === wanted) return;
  mkdirSync(dirname(target), { recursive: true });
  const warnings = await produce(compiler, target, [...compiler.flags, ...flags, ...objects]);
  if (warnings) process.stderr.write(warnings);
  writeFileSync(stamp, wanted);
  const current = new Set(objects);
  for (const name of readdirSync(folder)) {
    if (name.endsWith('.o') && !current.has(join(folder, name))) rmSync(join(folder, name), { force: true });
  }
}
