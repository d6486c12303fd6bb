/**
 * `npm run pack [-- --out DIR]`: the tarballs that are published, of lowrank and of the platform packages that `npm run prebuild` has
 * left in npm/. Only what is packed names these as optional dependencies, of exactly its own version: in package.json they would break
 * `npm ci` until they are published. Prints the tarballs' paths.
 */
import { execFileSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { root } from './native.mjs';
import { packageName, platforms, readManifest } from './packages.mjs';

const { values } = parseArgs({ options: { out: { type: 'string', default: join(root, 'build/pack') } } });
const out = resolve(values.out);

/** `--ignore-scripts`: what is packed is built already. */
function pack(folder) {
  const npm = process.platform === 'win32' ? 'npm.cmd' : 'npm';
  const printed = execFileSync(npm, ['pack', '--json', '--ignore-scripts', '--pack-destination', out], {
    cwd: folder,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
    shell: process.platform === 'win32',
  });
  return join(out, JSON.parse(printed)[0].filename);
}

/** A copy of what is published, with the manifest that fits it: no scripts, no development dependencies. */
function stage(folder) {
  const { scripts: _scripts, devDependencies: _development, ...manifest } = readManifest();
  const optionalDependencies = Object.fromEntries(Object.keys(platforms).map((name) => [packageName(name), manifest.version]));
  for (const path of [...manifest.files, 'README.md', 'LICENSE']) {
    if (path.startsWith('!')) continue;
    if (!existsSync(join(root, path))) throw new Error(`${path} is not there; run \`npm run prepare\` first`);
    cpSync(join(root, path), join(folder, path), { recursive: true });
  }
  writeFileSync(join(folder, 'package.json'), `${JSON.stringify({ ...manifest, optionalDependencies }, null, 2)}\n`);
}

mkdirSync(out, { recursive: true });
for (const name of readdirSync(out)) if (/^lowrank-.*\.tgz$/.test(name)) rmSync(join(out, name));
const staged = mkdtempSync(join(tmpdir(), 'lowrank-pack-'));
try {
  stage(staged);
  const folders = Object.keys(platforms).map((name) => join(root, 'npm', packageName(name)));
  const built = folders.filter((folder) => existsSync(join(folder, 'lowrank.node')));
  for (const folder of folders) if (!built.includes(folder)) console.error(`${folder} is not there: npm run prebuild`);
  for (const folder of [staged, ...built]) console.log(pack(folder));
} finally {
  rmSync(staged, { recursive: true, force: true });
}
