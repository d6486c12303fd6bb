/**
 * `npm run prebuild [-- --target NAME …]`: makes npm/lowrank-NAME for each platform, a package with the addon and every instruction set
 * inside. One cross compiler serves all: zig, from a Python environment in build/zig that is made when it is first wanted, or the one
 * that ZIG names. The first link of a target takes minutes, as zig then compiles the C++ library for it. Each addon is inspected: what
 * it exports, and that it wants nothing that its platform may lack.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { inspect, withoutDebugging } from './binary.mjs';
import { compile, link, nodeApiHeaders, plan, root, setsOf } from './native.mjs';
import { platforms, writePlatformPackage } from './packages.mjs';

const ziglang = '0.17.1';
const entryPoints = ['napi_register_module_v1', 'node_api_module_get_api_version_v1'];
const { symbols } = createRequire(import.meta.url)('node-api-headers');
const nodeApi = [...symbols.v8.js_native_api_symbols, ...symbols.v8.node_api_symbols];

/** The compiler's target, how it links, and the libraries that each system has. glibc 2.28 is RHEL 8's, as Node's own builds want it. */
const toolchains = {
  'linux-x64': { triple: 'x86_64-linux-gnu.2.28', flags: hiddenAll, libraries: /^(lib(c|m|pthread|dl|rt)\.so\.\d|ld-linux.*)$/ },
  'linux-arm64': { triple: 'aarch64-linux-gnu.2.28', flags: hiddenAll, libraries: /^(lib(c|m|pthread|dl|rt)\.so\.\d|ld-linux.*)$/ },
  'darwin-arm64': { triple: 'aarch64-macos.13.0', flags: () => ['-s', '-undefined', 'dynamic_lookup'], libraries: /libSystem\.B\.dylib$/ },
  'win32-x64': {
    triple: 'x86_64-windows-gnu',
    flags: nodeLibrary,
    libraries: /^(NODE\.EXE|KERNEL32\.dll|ntdll\.dll|api-ms-win-.*\.dll|ucrtbase\.dll)$/i,
  },
};

/** Everything but the entry points stays inside, the C++ library's functions too. */
function hiddenAll(folder) {
  const script = join(folder, 'exports.map');
  writeFileSync(script, `{ global: ${entryPoints.join('; ')}; local: *; };\n`);
  return ['-pthread', '-Wl,--gc-sections', `-Wl,--version-script=${script}`];
}

/** What Node's program exports, as an import library. */
function nodeLibrary(folder, zig) {
  const definition = join(folder, 'node.def');
  const library = join(folder, 'node.lib');
  writeFileSync(definition, `NAME NODE.EXE\nEXPORTS\n${nodeApi.join('\n')}\n`);
  execFileSync(zig, ['dlltool', '-m', 'i386:x86-64', '-d', definition, '-l', library]);
  return ['-s', library];
}

/** In the environment's site-packages, or undefined. */
function zigOf(venv) {
  if (!existsSync(venv)) return undefined;
  const found = readdirSync(venv, { recursive: true }).find((path) => /[/\\]ziglang[/\\]zig(\.exe)?$/.test(path));
  return found && join(venv, found);
}

function findZig() {
  if (process.env.ZIG) return process.env.ZIG;
  const venv = join(root, 'build/zig');
  if (!zigOf(venv)) {
    console.error(`lowrank: installing ziglang ${ziglang} into build/zig`);
    execFileSync('python3', ['-m', 'venv', venv], { stdio: 'inherit' });
    const python = join(venv, process.platform === 'win32' ? 'Scripts' : 'bin', 'python');
    execFileSync(python, ['-m', 'pip', 'install', '--quiet', `ziglang==${ziglang}`], { stdio: 'inherit' });
  }
  return zigOf(venv);
}

/** Flags by instruction set in zig's words, which has its own for Arm's. */
function zigSets(arch) {
  const translate = (flag) => flag.replace(/^-march=armv8\.(\d)-a/, '-mcpu=generic+v8_$1a');
  return Object.fromEntries(Object.entries(setsOf(arch)).map(([name, flags]) => [name, flags.map(translate)]));
}

/** Throws where an addon would not load on its platform. */
function check(name, path) {
  const { arch, exports, imports, libraries, versions, signed } = inspect(path);
  const problems = [];
  if (!name.endsWith(`-${arch}`)) problems.push(`it is for ${arch}`);
  const missing = entryPoints.filter((symbol) => !exports.includes(symbol));
  if (missing.length > 0) problems.push(`it does not export ${missing.join(', ')}`);
  const others = exports.filter((symbol) => !entryPoints.includes(symbol));
  if (name.startsWith('linux') && others.length > 0) problems.push(`it exports ${others.slice(0, 3).join(', ')} …`);
  if (signed === false) problems.push('it is not signed');
  const strange = imports.filter((symbol) => /^(napi|node_api)_/.test(symbol) && !nodeApi.includes(symbol));
  if (strange.length > 0) problems.push(`it wants ${strange.join(', ')} of Node, which Node-API 8 lacks`);
  const unknown = libraries.filter((library) => !toolchains[name].libraries.test(library));
  if (unknown.length > 0) problems.push(`it wants the libraries ${unknown.join(', ')}`);
  const late = versions.filter((version) => /^GLIBC_2\.(\d+)/.exec(version)?.[1] > 28);
  if (late.length > 0) problems.push(`it wants ${late.join(', ')}`);
  if (problems.length > 0) throw new Error(`${path}: ${problems.join('; ')}`);
  return { exports, libraries, versions };
}

async function prebuild(name, zig, version) {
  const { triple, flags } = toolchains[name];
  const folder = join(root, 'build/prebuilt', name);
  const objects = join(folder, 'objects');
  mkdirSync(objects, { recursive: true });
  const cache = join(root, 'build/zig-cache');
  const env = { ...process.env, ZIG_GLOBAL_CACHE_DIR: cache, ZIG_LOCAL_CACHE_DIR: cache };
  // Undefined behaviour is for tests to find: its checks would stay in. A loop that clang does not vectorise where GCC does is no mistake.
  const compiler = { command: zig, flags: ['c++', '-target', triple, '-fno-sanitize=undefined', '-Wno-pass-failed', '-g0'], version, env };
  const sets = zigSets(platforms[name].cpu);
  const jobs = plan({ compiler, sets, include: nodeApiHeaders(), objects });
  const begun = performance.now();
  await compile(compiler, jobs, Object.keys(sets), ` for ${name}`);
  const addon = join(folder, 'lowrank.node');
  // The C++ library is compiled as the link is.
  await link(compiler, jobs, ['-shared', '-O2', ...flags(folder, zig)], addon);
  const { exports, libraries, versions } = check(name, addon);
  const packed = join(writePlatformPackage(name), 'lowrank.node');
  writeFileSync(`${packed}.tmp`, name.startsWith('linux') ? withoutDebugging(readFileSync(addon)) : readFileSync(addon));
  renameSync(`${packed}.tmp`, packed);
  const seconds = ((performance.now() - begun) / 1000).toFixed(0);
  const wants = [...libraries, ...versions.filter((text) => /^(GLIBC_2\.2[0-9]|macOS)/.test(text))];
  console.error(
    `${name}: ${(statSync(packed).size / 1e6).toFixed(1)} MB in ${seconds} s; exports ${exports.length} symbols; wants ${wants.join(' ')}`,
  );
}

const { values } = parseArgs({ options: { target: { type: 'string', multiple: true, default: Object.keys(platforms) } } });
const unknown = values.target.find((name) => !(name in platforms));
if (unknown) throw new Error(`--target: there is no "${unknown}" (known: ${Object.keys(platforms).join(', ')})`);
const zig = findZig();
const version = execFileSync(zig, ['version'], { encoding: 'utf8' }).trim();
for (const name of values.target) await prebuild(name, zig, version);
