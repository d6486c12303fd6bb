import { listFiles, modelInfo } from '@huggingface/hub';
import { LowrankError, messageOf } from '../util/errors.js';
import { ggufNames, partsOf } from './gguf-split.js';
import { modelFiles } from './model-source.js';

/** Where a hub is and who asks. */
export interface HubAccess {
  /** Without a slash at its end; default `https://huggingface.co`. */
  endpoint?: string;
  token?: string;
  /** Ends a download that is under way: whoever waits for it gets the signal's reason. */
  signal?: AbortSignal;
}

/** A file in a repository, with the hash that its bytes must have. */
export interface HubFile {
  name: string;
  /** In bytes. */
  size: number;
  /** SHA-256 of the contents, 64 digits, where the file lies in large storage; else git's SHA-1 of the blob, 40 digits. */
  hash: string;
}

/** What is needed of a model's repository at one commit. */
export interface HubModel {
  /** `owner/name` */
  id: string;
  commit: string;
  files: HubFile[];
  /** The one .gguf file that stands for the model; without it the files are in Hugging Face's layout. */
  gguf?: string;
}

/** `owner/name`, or a .gguf file in it as `owner/name/file.gguf`. */
export interface HubId {
  id: string;
  gguf?: string;
}

const name = '[\\w][\\w.-]*';
const idPattern = new RegExp(`^(${name}(?:/${name})?)(?:/(${name}\\.gguf))?$`);

/** The parts of a model's id on the hub, or undefined where it cannot be one. */
export function parseHubId(spec: string): HubId | undefined {
  const [, id, gguf] = idPattern.exec(spec) ?? [];
  if (id === undefined || /\.\.|--|\.gguf$/.test(id)) return undefined;
  return { id, gguf };
}

/** Asks the hub for a model's commit at `revision` and the files that loading it takes: no README, no weights in other formats. */
export async function findHubModel({ id, gguf }: HubId, revision: string, access: HubAccess): Promise<HubModel> {
  const params = { hubUrl: endpointOf(access), fetch: hubFetch(id, revision, access) };
  try {
    const { sha: commit } = await modelInfo({ name: id, revision, additionalFields: ['sha'], ...params });
    if (!/^[0-9a-f]{40}$/.test(commit)) throw strange(id, `the commit ${JSON.stringify(commit)}`);
    const all: HubFile[] = [];
    for await (const entry of listFiles({ repo: { type: 'model', name: id }, revision: commit, ...params })) {
      if (entry.type !== 'file' || !/^[\w][\w.-]*$/.test(entry.path)) continue;
      const hash = entry.lfs?.oid ?? entry.oid ?? '';
      if (!/^(?:[0-9a-f]{40}|[0-9a-f]{64})$/.test(hash)) throw strange(id, `the hash ${JSON.stringify(hash)} of ${entry.path}`);
      if (!Number.isSafeInteger(entry.size) || entry.size < 0) throw strange(id, `the size ${entry.size} of ${entry.path}`);
      all.push({ name: entry.path, size: entry.size, hash });
    }
    return { id, commit, ...chooseFiles(id, all, gguf) };
  } catch (error) {
    access.signal?.throwIfAborted();
    // Not JSON, or JSON of another shape: a proxy's page, for instance.
    throw error instanceof LowrankError ? error : strange(id, `something else than was asked for (${messageOf(error)})`);
  }
}

function strange(id: string, what: string): LowrankError {
  return new LowrankError(`the hub answered with ${what}`, { place: id, mend: 'check HF_ENDPOINT' });
}

function chooseFiles(id: string, all: HubFile[], gguf: string | undefined): { files: HubFile[]; gguf?: string } {
  const named = (file: string) => all.filter((candidate) => candidate.name === file);
  const ggufs = ggufNames(all.map((file) => file.name));
  const choices = ggufs.map((file) => `${id}/${file}`).join(', ');
  // Of a split model all parts, whichever of them is named.
  const model = (first: string) => ({ files: all.filter((file) => partsOf(first).includes(file.name)), gguf: first });
  if (gguf !== undefined) {
    if (named(gguf).length > 0) return model(gguf);
    throw new LowrankError(`there is no ${gguf} in the repository`, {
      place: id,
      expected: choices || 'a repository with .gguf files',
      mend: 'name one of its files',
    });
  }
  const shards = all.filter((file) => /^model-\d{5}-of-\d{5}\.safetensors$/.test(file.name));
  const index = named('model.safetensors.index.json');
  const weights = named('model.safetensors').length > 0 ? named('model.safetensors') : index.length > 0 ? [...index, ...shards] : [];
  if (weights.length > 0) return { files: [...all.filter((file) => modelFiles.includes(file.name)), ...weights] };
  if (ggufs.length === 1) return model(ggufs[0]);
  if (ggufs.length > 1)
    throw new LowrankError('holds several .gguf files', { place: id, expected: 'the name of one', mend: `choose ${choices}` });
  const mend = 'choose a repository with model.safetensors, or convert its weights';
  throw new LowrankError('holds no weights in safetensors or GGUF', { place: id, mend });
}

/** Milliseconds without a byte after which a connection counts as dead. */
const patience = 30_000;

/** The bytes of a file from `offset` on; where the server cannot begin there, from 0 on: `start` says which. */
export async function openDownload(
  model: HubModel,
  file: HubFile,
  offset: number,
  access: HubAccess,
): Promise<{ start: number; chunks: AsyncIterable<Uint8Array> }> {
  const control = new AbortController();
  const url = `${endpointOf(access)}/${model.id}/resolve/${model.commit}/${file.name}`;
  const headers: HeadersInit = offset > 0 ? { Range: `bytes=${offset}-` } : {};
  const response = await hubFetch(model.id, model.commit, access)(url, { headers, signal: control.signal });
  const range = /^bytes (\d+)-/.exec(response.headers.get('content-range') ?? '');
  const start = response.status === 206 && range ? Number(range[1]) : 0;
  return { start, chunks: patiently(response.body, control) };
}

async function* patiently(body: ReadableStream<Uint8Array> | null, control: AbortController): AsyncGenerator<Uint8Array> {
  const reader = body?.getReader();
  try {
    while (reader) {
      const timer = setTimeout(() => control.abort(new Error(`no data for ${patience / 1000} seconds`)), patience);
      const { done, value } = await reader.read().finally(() => clearTimeout(timer));
      if (done) return;
      yield value;
    }
  } finally {
    await reader?.cancel().catch(() => {});
  }
}

function endpointOf({ endpoint = 'https://huggingface.co' }: HubAccess): string {
  return endpoint.replace(/\/+$/, '');
}

/** The hub could not be reached at all; what is in the cache may still serve. */
export class HubUnreachable extends LowrankError {}

/** `fetch` with the token, and with errors that say what to do about a model of this id. */
function hubFetch(id: string, revision: string, access: HubAccess): typeof fetch {
  return async (input, init) => {
    const headers = new Headers(init?.headers);
    headers.delete('Authorization');
    const trusted = new URL(input instanceof Request ? input.url : input).origin === new URL(endpointOf(access)).origin;
    if (access.token && trusted) headers.set('Authorization', `Bearer ${access.token}`);
    const control = new AbortController();
    const timer = setTimeout(() => control.abort(new Error(`no answer for ${patience / 1000} seconds`)), patience);
    const signal = AbortSignal.any([control.signal, init?.signal, access.signal].filter((one) => one instanceof AbortSignal));
    try {
      const response = await fetch(input, { ...init, headers, signal });
      if (response.ok) return response;
      await response.body?.cancel();
      throw refusal(response, id, revision, access);
    } catch (error) {
      if (error instanceof LowrankError) throw error;
      const cause = (error as Error).cause;
      const reason = cause === undefined ? messageOf(error) : messageOf(cause);
      const mend = 'check the connection and HF_ENDPOINT; with HF_HUB_OFFLINE=1 only the cache is used';
      throw new HubUnreachable(`${endpointOf(access)} cannot be reached: ${reason}`, { place: id, mend, cause: error });
    } finally {
      clearTimeout(timer);
    }
  };
}

function refusal(response: Response, id: string, revision: string, access: HubAccess): LowrankError {
  const code = response.headers.get('x-error-code');
  const page = `${endpointOf(access)}/${id}`;
  const error = (problem: string, mend: string) => new LowrankError(problem, { place: id, mend });
  const login = access.token ? 'make a new token' : 'make a token';
  const token = `${login} at ${endpointOf(access)}/settings/tokens and set HF_TOKEN, or run: hf auth login`;
  if (code === 'GatedRepo') return error('the model is gated: its owner grants access', `ask for access at ${page}, then ${token}`);
  if (code === 'RevisionNotFound')
    return error(`there is no revision "${revision}"`, `choose a branch, tag or commit from ${page}/tree/main`);
  if (response.status === 401) return error('there is no such public model', `check the name; if the model is private, ${token}`);
  if (response.status === 403) return error('the token gives no access to this model', `ask for access at ${page}, or ${token}`);
  if (response.status === 404) return error('there is no such model', 'check the name; for a local model, give the path of its folder');
  if (response.status === 429)
    return error('the hub refuses more requests for now', access.token ? 'wait some minutes' : `wait, or ${token}`);
  return new HubUnreachable(`the hub answered with status ${response.status}`, { place: id, mend: 'try again later' });
}
