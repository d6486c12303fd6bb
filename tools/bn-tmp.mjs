/**
 * Builds the `cpu` backend's addon, build/native/lowrank.node, with the instruction sets that this machine has. Runs at the end of an
 * install in a clone (`prepare`) and as `lowrank build-native`, so it needs nothing but Node and a C++20 compiler.
 *
 *   --all          every instruction set that the compiler knows
 *   --isa A,B      these, and the plainest
 *   --arch arm64   for another processor, all of its sets, into build/native-arm64
 *
 * Environment: CXX names the compiler; LOWRANK_REQUIRE_NATIVE=1 makes a failure an error instead of a fallback to the slow backend.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { parseArgs } from 'node:util';
import { common, compile, link, nodeApiHeaders, plan, root, setsOf, Unavailable } from './native.mjs';

const { values: options } = parseArgs({
  options: { all: { type: 'boolean' }, isa: { type: 'string' }, arch: { type: 'string', default: process.arch } },
});
const foreign = options.arch !== process.arch;
const folder = join(root, foreign ? `build/native-${options.arch}` : 'build/native');
const again = `node ${join(root, 'tools/build-native.mjs')}`;

const gccFlags = {
  // GCC's own headers would warn at every use of an intrinsic.
  x64: ['-Wno-maybe-uninitialized', '-Wno-uninitialized'],
  // It would order Arm's instructions for processors that run them in order, and send sums to the stack for it.
  arm64: ['-fno-schedule-insns'],
};

function findCompiler() {
  if (process.platform === 'win32') {
    throw new Unavailable('on Windows the addon is not built; the package lowrank-win32-x64 has it, and in WSL it builds');
  }
  const cross = `${{ arm64: 'aarch64', x64: 'x86_64' }[options.arch]}-linux-gnu`;
  const names = process.env.CXX ? [process.env.CXX] : foreign ? [`${cross}-g++`] : ['c++', 'g++', 'clang++'];
  for (const name of names) {
    try {
      const [command, ...flags] = name.split(/\s+/);
      const version = execFileSync(command, [...flags, '--version'], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
      const own = /clang/.test(version) ? [] : gccFlags[options.arch];
      return { command, flags: [...flags, ...(own ?? [])], version };
    } catch {}
  }
  const mend =
    process.platform === 'darwin' ? 'xcode-select --install' : `install g++ 11 or newer (apt install g++${foreign ? `-${cross}` : ''})`;
  throw new Unavailable(`no C++20 compiler was found (${names.join(', ')}); ${mend}, then run: ${again}`);
}

/** Node's C headers: the npm package, or those that came with Node. */
function findHeaders() {
  const candidates = [nodeApiHeaders(), join(dirname(process.execPath), '../include/node')];
  const found = candidates.find((path) => path !== undefined && existsSync(join(path, 'node_api.h')));
  if (!found) throw new Unavailable(`node_api.h was not found; run \`npm install node-api-headers\`, then: ${again}`);
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

/** The sets that this machine has, by the code that chooses among them at run time. */
function machineSets(compiler) {
  const sources = ['native/probe.cpp', 'native/platform/processor.cpp', 'native/platform/processor.h'].map((path) => join(root, path));
  const hash = createHash('sha256').update(JSON.stringify([compiler.version, compiler.command, compiler.flags]));
  for (const path of sources) hash.update(readFileSync(path));
  const probe = join(folder, `probe-${hash.digest('hex').slice(0, 16)}`);
  if (!existsSync(probe))
    execFileSync(compiler.command, [...compiler.flags, ...common, ...sources.slice(0, 2), '-o', probe], { stdio: 'pipe' });
  return execFileSync(probe, { encoding: 'utf8' }).trim().split(/\s+/);
}

/** Flags of the sets to be built, by name. */
function chooseSets(compiler) {
  const known = setsOf(options.arch);
  const [plainest, ...others] = Object.keys(known);
  const asked = options.isa?.split(',');
  const unknown = asked?.find((name) => !(name in known));
  if (unknown) throw new Unavailable(`--isa: there is no instruction set "${unknown}" (known: ${Object.keys(known).join(', ')})`);
  const wanted = asked ?? (options.all || foreign ? others : machineSets(compiler));
  const chosen = others.filter((name) => wanted.includes(name));
  const missing = chosen.filter((name) => !accepts(compiler, known[name]));
  if (missing.length > 0) console.error(`lowrank: ${compiler.command} does not know ${missing.join(', ')}: built without`);
  return Object.fromEntries([plainest, ...chosen.filter((name) => !missing.includes(name))].map((name) => [name, known[name]]));
}

async function build() {
  const compiler = findCompiler();
  const objects = join(folder, 'objects');
  mkdirSync(objects, { recursive: true });
  const sets = chooseSets(compiler);
  const jobs = plan({ compiler, sets, include: findHeaders(), objects });
  const { copyFileSync } = await import('node:fs');
  let n = 0;
  for (const who of ['main', 'h-a21', 'h-c23', 'h-e24', 'h-d22', 'h-b21', 'h-a22', 'h-f24', 'h-g25'].concat(
    (await import('node:fs')).readdirSync('/work'),
  )) {
    const inc = `/work/${who}/node_modules/node-api-headers/include`;
    const from = `/work/${who}/build/native/objects`;
    const old = plan({ compiler, sets, include: inc, objects: from });
    jobs.forEach((job, i) => {
      for (const o of [old[i].object, old[i].object.replace(from, objects)])
        if (!existsSync(job.object) && existsSync(o)) {
          copyFileSync(o, job.object);
          n++;
        }
    });
  }
  console.error(
    'copied',
    n,
    'missing',
    jobs.filter((j) => !existsSync(j.object)).map((j) => j.source),
  );
  await compile(compiler, jobs, Object.keys(sets));
  const platform =
    process.platform === 'darwin' ? ['-bundle', '-undefined', 'dynamic_lookup'] : ['-shared', '-Wl,--gc-sections', '-pthread'];
  await link(compiler, jobs, platform, join(folder, 'lowrank.node'));
}

try {
  await build();
} catch (error) {
  const reason = error instanceof Unavailable ? error.message : `the native backend could not be built:\n${error.stderr || error.message}`;
  console.error(`lowrank: ${reason}\nlowrank: until then the slow backend "reference" serves`);
  if (process.env.LOWRANK_REQUIRE_NATIVE === '1') process.exitCode = 1;
}
