/**
 * Builds the `cpu` backend's addon, build/native/lowrank.node, or with `--arch arm64` on another machine build/native-arm64/lowrank.node. Runs at the end of every install (`prepare`), so it needs nothing but Node
 * and a C++20 compiler. Sources that open `namespace lowrank::LOWRANK_ISA` are compiled once per instruction set. Objects are named by
 * the hash of all that they are made from: what is up to date is not built again.
 *
 * Environment: CXX names the compiler; LOWRANK_REQUIRE_NATIVE=1 makes a failure an error instead of a fallback to the slow backend.
 */
import { execFile, execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs, promisify } from 'node:util';

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..');
const { values: options } = parseArgs({ options: { arch: { type: 'string', default: process.arch } } });
const { arch } = options;
const folder = join(root, arch === process.arch ? 'build/native' : `build/native-${arch}`);
const target = join(folder, 'lowrank.node');
const objects = join(folder, 'objects');

// No -ffast-math, whose reordering would differ from machine to machine, and no -march=native, whose binary runs on one machine only.
const common = [
  '-O3',
  '-std=c++20',
  '-fPIC',
  '-fvisibility=hidden',
  '-fno-math-errno',
  '-fno-trapping-math',
  '-fopenmp-simd',
  '-Wall',
  // GCC's own headers would warn at every use of an intrinsic.
  '-Wno-maybe-uninitialized',
  '-Wno-uninitialized',
];
const avx2 = ['-mavx2', '-mfma', '-mf16c'];
const avx512 = [...avx2, '-mavx512f', '-mavx512bw', '-mavx512vl', '-mavx512dq', '-mprefer-vector-width=512'];
const avx512bf16 = [...avx512, '-mavx512bf16'];
const amx = [...avx512bf16, '-mavx512vbmi', '-mamx-tile', '-mamx-bf16'];
/** From the plainest, which every machine has, to the richest; the linker's choice among equal inline functions relies on this order. */
const setsOf = {
  x64: { generic: [], avx2, avx512, avx512bf16, amx },
  arm64: { neon: [], neonbf16: ['-march=armv8.2-a+bf16'] },
};
const instructionSets = setsOf[arch] ?? { generic: [] };

class Unavailable extends Error {}

function findCompiler() {
  if (process.platform === 'win32') throw new Unavailable('the native backend does not support Windows yet (WSL works)');
  const cross = `${{ arm64: 'aarch64' }[arch]}-linux-gnu-g++`;
  const names = process.env.CXX ? [process.env.CXX] : arch === process.arch ? ['c++', 'g++', 'clang++'] : [cross];
  for (const name of names) {
    try {
      const [command, ...flags] = name.split(/\s+/);
      const version = execFileSync(command, [...flags, '--version'], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
      return { command, flags, version };
    } catch {}
  }
  const gcc = arch === process.arch ? 'g++' : `g++-${cross.replace('-g++', '')}`;
  const mend = process.platform === 'darwin' ? 'xcode-select --install' : `install g++ 11 or newer (apt install ${gcc})`;
  throw new Unavailable(`no C++20 compiler was found (${names.join(', ')}); ${mend}, then run: node tools/build-native.mjs`);
}

/** Node's C headers: the npm package, or those that came with Node. */
function findHeaders() {
  const candidates = [join(dirname(process.execPath), '../include/node')];
  try {
    candidates.unshift(createRequire(import.meta.url)('node-api-headers').include_dir);
  } catch {}
  const found = candidates.find((path) => existsSync(join(path, 'node_api.h')));
  if (!found) throw new Unavailable('node_api.h was not found; run `npm install node-api-headers`, then: node tools/build-native.mjs');
  return found;
}

function accepts(compiler, flags) {
  try {
    execFileSync(compiler.command, [...compiler.flags, ...flags, '-x', 'c++', '-fsyntax-only', '-'], {
      input: '',
      stdio: ['pipe', 'ignore', 'ignore'],
    });
    return true;
  } catch {
    return false;
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

/** One object to be made per source, or per source and instruction set; plain ones first. */
function plan(compiler) {
  const sets = Object.entries(instructionSets).filter(([, flags]) => accepts(compiler, flags));
  const sources = ['kernels', 'napi'].flatMap((folder) =>
    readdirSync(join(root, 'native', folder))
      .filter((name) => name.endsWith('.cpp'))
      .map((name) => join(root, 'native', folder, name)),
  );
  const perSet = sources.filter((path) => readFileSync(path, 'utf8').includes('namespace lowrank::LOWRANK_ISA {'));
  const once = sources.filter((path) => !perSet.includes(path));
  // GCC would order Arm's instructions for processors that run them in order, and send sums to the stack for it.
  const ordered = arch === 'arm64' && !compiler.version.includes('clang') ? ['-fno-schedule-insns'] : [];
  const base = [...compiler.flags, ...common, ...ordered, '-I', findHeaders()];
  const names = sets.map(([name]) => `X(${name})`).join(' ');
  const plain = [...base, '-DNAPI_VERSION=8', `-DLOWRANK_ISA=${sets[0][0]}`, `-DLOWRANK_ISAS=${names}`];
  const jobs = once.map((source) => ({ source, flags: plain }));
  for (const [name, flags] of sets) for (const source of perSet) jobs.push({ source, flags: [...base, `-DLOWRANK_ISA=${name}`, ...flags] });
  return jobs.map((job) => {
    const hash = createHash('sha256').update(JSON.stringify([compiler.version, compiler.command, job.flags, contentsOf(job.source)]));
    return { ...job, object: join(objects, `${hash.digest('hex').slice(0, 32)}.o`) };
  });
}

/** Runs the compiler into a temporary file that takes its place only when it is whole. */
async function produce(compiler, output, args) {
  const temporary = `${output}.${process.pid}.tmp`;
  try {
    const { stderr } = await promisify(execFile)(compiler.command, [...args, '-o', temporary], { maxBuffer: 1 << 26 });
    if (stderr) process.stderr.write(stderr);
    renameSync(temporary, output);
  } finally {
    rmSync(temporary, { force: true });
  }
}

async function build() {
  const compiler = findCompiler();
  const jobs = plan(compiler);
  mkdirSync(objects, { recursive: true });
  const stamp = join(objects, 'linked');
  const wanted = jobs.map(({ object }) => object).join('\n');
  if (existsSync(target) && existsSync(stamp) && readFileSync(stamp, 'utf8') === wanted) return;

  const missing = jobs.filter(({ object }) => !existsSync(object));
  console.error(`lowrank: building the native backend (${missing.length} of ${jobs.length} parts)`);
  const queue = missing.values();
  const worker = async () => {
    for (const { source, flags, object } of queue) await produce(compiler, object, [...flags, '-c', source]);
  };
  await Promise.all(Array.from({ length: availableParallelism() }, worker));

  const platform =
    process.platform === 'darwin' ? ['-bundle', '-undefined', 'dynamic_lookup'] : ['-shared', '-Wl,--gc-sections', '-pthread'];
  await produce(compiler, target, [...compiler.flags, ...platform, ...jobs.map(({ object }) => object)]);
  writeFileSync(stamp, wanted);
  removeStale(new Set(jobs.map(({ object }) => object)));
}

/** Keeps the objects of this build and forgets those of earlier ones. */
function removeStale(current) {
  for (const name of readdirSync(objects)) {
    const path = join(objects, name);
    if (name.endsWith('.o') && !current.has(path)) rmSync(path, { force: true });
  }
}

try {
  await build();
} catch (error) {
  const reason = error instanceof Unavailable ? error.message : `the native backend could not be built:\n${error.stderr || error.message}`;
  console.error(`lowrank: ${reason}\nlowrank: until then the slow backend "reference" serves`);
  if (process.env.LOWRANK_REQUIRE_NATIVE === '1') process.exitCode = 1;
}
