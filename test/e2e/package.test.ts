/**
 * The packages as npm installs them, in empty folders and with nothing on PATH but Node, npm and a shell: no compiler. The platform's
 * package holds the addon that was built here, or with LOWRANK_PREBUILT=1 is the one of `npm run prebuild`. Dependencies come from the
 * registry.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { describeNative, notRun } from '../helpers/native.js';
import { writeRows, writeTinyModel } from '../helpers/tiny-model.js';

const platform = `${process.platform}-${process.arch}`;
const platformPackage = `lowrank-${platform}`;
const prebuilt = process.env.LOWRANK_PREBUILT === '1';
const builtHere = 'build/native/lowrank.node';
const folder = realpathSync(mkdtempSync(join(tmpdir(), 'lowrank-package-')));
const at = (...names: string[]) => join(folder, ...names);

/** Only these programs can be found. */
function barePath(): string {
  mkdirSync(at('bin'));
  symlinkSync(process.execPath, at('bin', 'node'));
  const npm = join(dirname(realpathSync(process.execPath)), '../lib/node_modules/npm/bin/npm-cli.js');
  writeFileSync(at('bin', 'npm'), `#!/bin/sh\nexec '${process.execPath}' '${npm}' "$@"\n`, { mode: 0o755 });
  symlinkSync('/bin/sh', at('bin', 'sh'));
  return at('bin');
}

/** Runs a program in the installation's folder. */
function run(where: string, command: string, args: readonly string[], more: Record<string, string> = {}) {
  const { CXX: _, CC: __, ...inherited } = process.env;
  const env = { ...inherited, PATH: at('bin'), NO_COLOR: '1', LOWRANK_THREADS: '2', ...more };
  const { status, stdout, stderr } = spawnSync(command, args, { cwd: at(where), env, encoding: 'utf8' });
  return { code: status, out: stdout, err: stderr };
}

const lowrank = (where: string, args: readonly string[]) => run(where, at(where, 'node_modules/.bin/lowrank'), args);

function install(where: string, tarballs: readonly string[]): void {
  mkdirSync(at(where));
  writeFileSync(at(where, 'package.json'), '{"private": true}');
  // The platform packages are not in the registry yet; as tarballs they are installed beside lowrank, which is where npm puts them.
  const npm = run(where, 'npm', ['install', '--no-audit', '--no-fund', ...tarballs]);
  if (npm.code !== 0) throw new Error(`npm install: ${npm.err}`);
}

/** The tarballs of lowrank and, where an addon is there, of this platform's package, and that addon. */
function pack(): { main: string; own?: string; addon: string } {
  const packed = execFileSync(process.execPath, ['tools/pack.mjs', '--out', at('tarballs')], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  const [main, ...others] = packed.trim().split('\n');
  if (prebuilt) {
    const own = others.find((path) => path.includes(`${platformPackage}-`));
    if (own === undefined) throw new Error(`npm/${platformPackage} is not there: npm run prebuild -- --target ${platform}`);
    return { main, own, addon: join('npm', platformPackage, 'lowrank.node') };
  }
  if (!existsSync(builtHere)) return { main, addon: builtHere };
  const script = `import('./tools/packages.mjs').then((m) => m.writePlatformPackage('${platform}', '${at(platformPackage)}'))`;
  execFileSync(process.execPath, ['-e', script]);
  copyFileSync(builtHere, at(platformPackage, 'lowrank.node'));
  const [{ filename }] = JSON.parse(run(platformPackage, 'npm', ['pack', '--json']).out) as { filename: string }[];
  return { main, own: at(platformPackage, filename), addon: builtHere };
}

/** A recipe beside the installation; files that a process had loaded when it ended are listed in objects.json. */
function prepare(where: string): void {
  const lines = [
    'base_model: ../model',
    'datasets: [../train.jsonl]',
    'output_dir: out',
    'max_steps: 1',
    'micro_batch_size: 2',
    'lora_r: 4',
  ];
  writeFileSync(at(where, 'recipe.yaml'), lines.join('\n'));
  const report = `JSON.stringify(process.report.getReport().sharedObjects)`;
  writeFileSync(at(where, 'objects.cjs'), `process.on('exit', () => require('fs').writeFileSync('objects.json', ${report}));\n`);
}

function trainOneStep(where: string) {
  prepare(where);
  const result = run(where, at(where, 'node_modules/.bin/lowrank'), ['train', 'recipe.yaml', '--json'], {
    NODE_OPTIONS: '--require ./objects.cjs',
  });
  const objects = JSON.parse(readFileSync(at(where, 'objects.json'), 'utf8')) as string[];
  return { ...result, addons: objects.filter((path) => path.endsWith('lowrank.node')) };
}

let packed: ReturnType<typeof pack>;

beforeAll(async () => {
  barePath();
  packed = pack();
  await writeTinyModel(at('model'));
  writeRows(at('train.jsonl'), 4);
}, 120_000);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

(prebuilt ? describe : describeNative)(`installed with the addon ${prebuilt ? 'of npm run prebuild' : 'that was built here'}`, () => {
  beforeAll(() => install('with', [packed.main, packed.own as string]), 120_000);

  test('a step is trained with the addon of the platform package', () => {
    const inside = at('with', 'node_modules', platformPackage, 'lowrank.node');
    expect(readFileSync(inside).equals(readFileSync(packed.addon))).toBe(true);
    const { code, out, err, addons } = trainOneStep('with');
    expect({ code, err }).toMatchObject({ code: 0 });
    expect(JSON.parse(out)).toMatchObject({ steps: 1, loss: expect.any(Number) });
    expect(addons).toEqual([inside]);
    expect(err).not.toContain('the native backend has not been built');
    expect(existsSync(at('with', 'out/adapter_model.safetensors'))).toBe(true);
    const { findings } = JSON.parse(lowrank('with', ['doctor', '--json']).out);
    expect(findings).toContainEqual(
      expect.objectContaining({ name: 'addon', value: expect.stringContaining(`${inside}, from the package ${platformPackage}`) }),
    );
  });

  test('a platform package of another version is refused', () => {
    const manifest = at('with', 'node_modules', platformPackage, 'package.json');
    const text = readFileSync(manifest, 'utf8');
    writeFileSync(manifest, text.replace(/"version": "[^"]*"/, '"version": "0.0.1"'));
    const { code, err } = lowrank('with', ['train', 'recipe.yaml', '--overwrite']);
    writeFileSync(manifest, text);
    expect({ code, err }).toEqual({ code: 1, err: expect.stringMatching(/is version 0\.0\.1[\s\S]*to mend: npm install lowrank@/) });
  });

  test('all that the README names is there, and nothing that only a clone needs', () => {
    const inside = (path: string) => at('with', 'node_modules/lowrank', path);
    const links = [...readFileSync(inside('README.md'), 'utf8').matchAll(/\]\((?!https?:|#)([^)#]+)/g)].map(([, path]) => path);
    expect(links.length).toBeGreaterThan(2);
    expect(links.filter((path) => !existsSync(inside(path)))).toEqual([]);
    const listed = execFileSync('tar', ['-tzf', packed.main], { encoding: 'utf8' }).split('\n');
    expect(listed.filter((path) => /tsbuildinfo|\/test\/|\/build\//.test(path))).toEqual([]);
    expect(existsSync(inside('build'))).toBe(false);
    const { scripts, optionalDependencies, version } = JSON.parse(readFileSync(inside('package.json'), 'utf8'));
    expect(scripts).toBeUndefined();
    expect(optionalDependencies).toMatchObject({ [platformPackage]: version });
  });
});

describe('installed without the platform package', () => {
  beforeAll(() => install('without', [packed.main]), 120_000);

  test('a step is trained on reference, which is said in one line, once', () => {
    const { code, out, err, addons } = trainOneStep('without');
    expect({ code, err }).toMatchObject({ code: 0 });
    expect(JSON.parse(out)).toMatchObject({ steps: 1, loss: expect.any(Number) });
    expect(addons).toEqual([]);
    const lines = err.split('\n').filter((line) => line.includes('the native backend has not been built'));
    expect(lines).toHaveLength(1);
    expect(lines[0]).toMatch(/times slower.*C\+\+20 compiler.*lowrank build-native/);
  });

  test('in TypeScript it is a warning of the process, once', () => {
    writeFileSync(
      at('without', 'open.mjs'),
      "import { openBackend } from 'lowrank';\nawait openBackend();\nconsole.log((await openBackend()).name);\n",
    );
    const { out, err } = run('without', 'node', ['open.mjs']);
    expect(out).toBe('reference\n');
    expect(err.match(/LowrankWarning: the native backend has not been built/g)).toHaveLength(1);
  });

  test('doctor says what mends it, and building says what it lacks', () => {
    const doctor = lowrank('without', ['doctor', '--json']);
    expect(doctor.code).toBe(1);
    expect(JSON.parse(doctor.out).findings).toContainEqual(
      expect.objectContaining({ name: 'backend', ok: false, mend: expect.stringContaining('lowrank build-native') }),
    );
    const { code, err } = lowrank('without', ['build-native']);
    expect({ code, err }).toEqual({ code: 1, err: expect.stringMatching(/no C\+\+20 compiler was found/) });
  });
});

function inspectPackages(): void {
  const formats = { 'linux-x64': 'ELF x64', 'linux-arm64': 'ELF arm64', 'darwin-arm64': 'Mach-O arm64', 'win32-x64': 'PE x64' };

  test.each(Object.entries(formats))('%s can be loaded by Node there, as far as its file says', (name, format) => {
    const path = join('npm', `lowrank-${name}`, 'lowrank.node');
    expect(existsSync(path), `${path} is there (npm run prebuild)`).toBe(true);
    const script = `import('./tools/binary.mjs').then((m) => console.log(JSON.stringify(m.inspect('${path}'))))`;
    const found = JSON.parse(execFileSync(process.execPath, ['-e', script], { encoding: 'utf8' }));
    expect(`${found.format} ${found.arch}`).toBe(format);
    expect(found.exports).toEqual(expect.arrayContaining(['napi_register_module_v1', 'node_api_module_get_api_version_v1']));
    expect(found.imports).toEqual(expect.arrayContaining(['napi_create_threadsafe_function', 'napi_throw_error']));
    const manifest = JSON.parse(readFileSync(join('npm', `lowrank-${name}`, 'package.json'), 'utf8'));
    const { version } = JSON.parse(readFileSync('package.json', 'utf8'));
    const [os, cpu] = name.split('-');
    expect(manifest).toMatchObject({ version, os: [os], cpu: [cpu], main: 'lowrank.node' });
  });
}

if (prebuilt) describe('the packages of npm run prebuild', inspectPackages);
else notRun('the packages of npm run prebuild', 'npm run test:package does');
