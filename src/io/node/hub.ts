import { createHash, type Hash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { copyFile, mkdir, open, readdir, readFile, rename, rm, stat, symlink } from 'node:fs/promises';
import { homedir } from 'node:os';
import { dirname, join, relative } from 'node:path';
import lockfile from 'proper-lockfile';
import { LowrankError, messageOf } from '../../util/errors.js';
import { isObject, parseJsonObject } from '../../util/json.js';
import { ggufNames, partsOf } from '../gguf-split.js';
import { findHubModel, type HubAccess, type HubFile, type HubId, type HubModel, HubUnreachable, openDownload, parseHubId } from '../hub.js';
import { homePath, named, writeText } from './files.js';

/** Called as a file's bytes arrive. */
export type DownloadProgress = (progress: { file: string; done: number; total: number }) => void;

/** A model's files on the disk. */
export interface Snapshot {
  /** snapshots/<commit> in the cache. */
  dir: string;
  commit: string;
  /** The .gguf file in it that stands for the model. */
  gguf?: string;
}

const isTrue = (value: string | undefined) => ['1', 'ON', 'YES', 'TRUE'].includes(value?.toUpperCase() ?? '');

// The environment is read as Python's huggingface_hub reads it:
// https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables

function homeFolder(): string {
  return homePath(process.env.HF_HOME ?? join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'huggingface'));
}

/** Where models of the hub are kept. */
export function cacheFolder(): string {
  return homePath(process.env.HF_HUB_CACHE ?? process.env.HUGGINGFACE_HUB_CACHE ?? join(homeFolder(), 'hub'));
}

function isOffline(): boolean {
  return isTrue(process.env.HF_HUB_OFFLINE || process.env.TRANSFORMERS_OFFLINE);
}

async function hubAccess(): Promise<HubAccess> {
  const tokenPath = homePath(process.env.HF_TOKEN_PATH ?? join(homeFolder(), 'token'));
  const token = process.env.HF_TOKEN || process.env.HUGGING_FACE_HUB_TOKEN || (await readFile(tokenPath, 'utf8').catch(() => ''));
  return { endpoint: process.env.HF_ENDPOINT || undefined, token: token.trim() || undefined };
}

const repositoryFolder = (id: string) => `models--${id.replace('/', '--')}`;

/**
 * Where a model lies in the cache: the folder of its snapshot, or its .gguf file; undefined where anything is missing. Asks no server.
 * `id` is what `openModel` takes.
 */
export async function cachedModel(id: string, revision = 'main'): Promise<string | undefined> {
  const hubId = parseHubId(id);
  const snapshot = hubId && (await snapshotOf(hubId, revision));
  return snapshot && join(snapshot.dir, snapshot.gguf ?? '');
}

async function snapshotOf({ id, gguf }: HubId, revision: string): Promise<Snapshot | undefined> {
  const repository = join(cacheFolder(), repositoryFolder(id));
  const reference = await readFile(join(repository, 'refs', revision), 'utf8').catch(() => revision);
  const commit = reference.trim();
  if (!/^[0-9a-f]{40}$/.test(commit)) return undefined;
  const dir = join(repository, 'snapshots', commit);
  const has = (name: string) => exists(join(dir, name));
  const whole = async (name: string) =>
    (await Promise.all(partsOf(name).map(has))).every(Boolean) ? { dir, commit, gguf: name } : undefined;
  if (gguf !== undefined) return whole(gguf);
  const ggufs = ggufNames(await readdir(dir).catch(() => []));
  if (ggufs.length === 1 && !(await has('config.json'))) return whole(ggufs[0]);
  if (!(await has('config.json')) || !(await has('tokenizer.json'))) return undefined;
  if (await has('model.safetensors')) return { dir, commit };
  const index = await readFile(join(dir, 'model.safetensors.index.json'), 'utf8').catch(() => undefined);
  const map = index && parseJsonObject(index, join(dir, 'model.safetensors.index.json')).weight_map;
  if (!map || !isObject(map)) return undefined;
  const present = await Promise.all([...new Set(Object.values(map))].map((shard) => has(String(shard))));
  return present.every(Boolean) ? { dir, commit } : undefined;
}

/**
 * A model's files in the cache, which Python's libraries share (https://huggingface.co/docs/huggingface_hub/guides/manage-cache): asks the
 * hub for the commit, downloads what is missing of the wanted files, checks every hash. Where the hub cannot be reached the cache serves,
 * if it holds the whole model.
 */
export async function downloadModel(
  hubId: HubId,
  revision = 'main',
  { onProgress, signal }: { onProgress?: DownloadProgress; signal?: AbortSignal } = {},
  wanted: (file: string) => boolean = () => true,
): Promise<Snapshot> {
  if (!/^[\w][\w./-]*$/.test(revision) || revision.includes('..')) {
    throw new LowrankError(`"${revision}" is no revision`, {
      place: hubId.id,
      expected: 'a branch, a tag or a commit',
      mend: 'correct it',
    });
  }
  const cached = await snapshotOf(hubId, revision);
  if (cached && (isOffline() || cached.commit === revision)) return cached;
  if (isOffline()) {
    const mend = 'unset HF_HUB_OFFLINE to download it, or give the path of a local folder';
    throw new LowrankError('not in the cache, and HF_HUB_OFFLINE forbids to download', {
      place: hubId.id,
      expected: `files in ${cacheFolder()}`,
      mend,
    });
  }
  const access = { ...(await hubAccess()), signal };
  let model: HubModel;
  try {
    model = await findHubModel(hubId, revision, access);
  } catch (error) {
    if (cached && error instanceof HubUnreachable) return cached;
    throw error;
  }
  const folder = join(cacheFolder(), repositoryFolder(hubId.id));
  const dir = join(folder, 'snapshots', model.commit);
  for (const file of model.files.filter(({ name }) => wanted(name))) await fetchFile(model, file, folder, access, onProgress);
  if (revision !== model.commit) await writeText(join(folder, 'refs', revision), model.commit);
  return { dir, commit: model.commit, gguf: model.gguf };
}

async function fetchFile(model: HubModel, file: HubFile, folder: string, access: HubAccess, onProgress?: DownloadProgress): Promise<void> {
  const pointer = join(folder, 'snapshots', model.commit, file.name);
  const blob = join(folder, 'blobs', file.hash);
  await named(pointer, async () => {
    if (await exists(pointer)) return;
    await mkdir(dirname(pointer), { recursive: true });
    await mkdir(dirname(blob), { recursive: true });
    const release = await lockBlob(model, file);
    try {
      if (!(await exists(blob))) await download(model, file, blob, access, onProgress);
      if (!(await exists(pointer))) await link(blob, pointer);
    } finally {
      await release();
    }
  });
}

const exists = (path: string) =>
  stat(path).then(
    () => true,
    () => false,
  );

/** Waits while another process downloads the same file; a lock whose holder has died is taken over. */
async function lockBlob({ id }: HubModel, file: HubFile): Promise<() => Promise<void>> {
  const locks = join(cacheFolder(), '.locks', repositoryFolder(id));
  await mkdir(locks, { recursive: true });
  const lockfilePath = join(locks, `${file.hash}.lowrank`);
  // A lock lost to a sleeping machine does no harm: the hash is checked before a file counts.
  const options = { lockfilePath, realpath: false, stale: 20_000, onCompromised: () => {} };
  return lockfile.lock(join(locks, file.hash), { ...options, retries: { forever: true, minTimeout: 100, maxTimeout: 1000 } });
}

/** As Python's cache has it; where links are not allowed (Windows), a copy. */
async function link(blob: string, pointer: string): Promise<void> {
  await rm(pointer, { force: true });
  try {
    await symlink(relative(dirname(pointer), blob), pointer);
  } catch {
    await copyFile(blob, pointer);
  }
}

/** Times that a connection may break without a byte having come. */
const maxFailures = 4;

/** How much of a file is there, and the hash of it so far. */
interface Transfer {
  done: number;
  hash: Hash;
}

/** Downloads to `<blob>.incomplete`, going on where an earlier attempt was cut off, in this process or before. */
async function download(model: HubModel, file: HubFile, blob: string, access: HubAccess, onProgress?: DownloadProgress): Promise<void> {
  const incomplete = `${blob}.incomplete`;
  const place = `${model.id}/${file.name}`;
  const transfer = await resume(incomplete, file);
  for (let failures = 0; transfer.done < file.size; ) {
    const before = transfer.done;
    try {
      await transferRest(model, file, incomplete, transfer, access, onProgress);
    } catch (error) {
      access.signal?.throwIfAborted();
      const refused = error instanceof LowrankError && !(error instanceof HubUnreachable);
      // What the disk refuses has a system call; a broken connection has it only in its cause.
      if (refused || (error as NodeJS.ErrnoException).syscall) throw error;
      failures = transfer.done > before ? 0 : failures + 1;
      if (failures > maxFailures) {
        const mend = 'run the command again: it goes on where it stopped';
        throw new LowrankError(`the download broke off: ${messageOf(error)}`, { place, mend, cause: error });
      }
      await new Promise((resolve) => setTimeout(resolve, retryDelay * failures));
    }
  }
  if (file.size === 0) await writeText(incomplete, '');
  const found = transfer.hash.digest('hex');
  if (found !== file.hash) {
    await rm(incomplete, { force: true });
    const mend = 'run the command again; if it persists, check HF_ENDPOINT and proxies';
    throw new LowrankError(`the downloaded bytes have the hash ${found}`, { place, expected: file.hash, mend });
  }
  await rename(incomplete, blob);
}

/** One connection's worth of bytes. */
async function transferRest(
  model: HubModel,
  file: HubFile,
  incomplete: string,
  transfer: Transfer,
  access: HubAccess,
  onProgress?: DownloadProgress,
): Promise<void> {
  const { start, chunks } = await openDownload(model, file, transfer.done, access);
  if (start !== transfer.done) Object.assign(transfer, { done: 0, hash: hashFor(file) });
  if (start !== transfer.done) throw new Error(`the server began at byte ${start}`);
  const target = await open(incomplete, start === 0 ? 'w' : 'a');
  try {
    for await (const chunk of chunks) {
      await target.writeFile(chunk);
      transfer.hash.update(chunk);
      transfer.done += chunk.length;
      if (transfer.done > file.size) return;
      onProgress?.({ file: file.name, done: transfer.done, total: file.size });
    }
    await target.sync();
  } finally {
    await target.close();
  }
  if (transfer.done < file.size) throw new Error(`the connection ended after ${transfer.done} of ${file.size} bytes`);
}

/** Milliseconds to wait after the first failure; after the second twice as long, and so on. */
const retryDelay = 250;

/** Git hashes a header with the contents. */
function hashFor(file: HubFile): Hash {
  return file.hash.length === 64 ? createHash('sha256') : createHash('sha1').update(`blob ${file.size}\0`);
}

/** What an earlier attempt has left. */
async function resume(incomplete: string, file: HubFile): Promise<Transfer> {
  const hash = hashFor(file);
  const size = (await stat(incomplete).catch(() => undefined))?.size ?? 0;
  if (size > file.size) return { done: 0, hash };
  if (size > 0) for await (const chunk of createReadStream(incomplete)) hash.update(chunk);
  return { done: size, hash };
}
