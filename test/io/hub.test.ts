import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { cachedModel, cacheFolder } from '../../src/io/node.js';
import { nodeHost, openModel } from '../../src/runs/node.js';
import { LowrankError } from '../../src/util/errors.js';
import { tinyLlama } from './gguf-builder.js';
import { commit, gitHash, type HubFault, sha256, startHub } from './hub-server.js';

const golden = (path: string) => new Uint8Array(readFileSync(new URL(`../golden/${path}`, import.meta.url)));
const text = (value: string) => new TextEncoder().encode(value);
const model = {
  'config.json': golden('models/grouped-tied/config.json'),
  'tokenizer.json': text('{"model":{"type":"BPE"}}'),
  'tokenizer_config.json': text('{"eos_token":"</s>"}'),
  'chat_template.jinja': text('{{ messages }}'),
  'model.safetensors': golden('models/grouped-tied/model.safetensors'),
};
const unwanted = {
  'README.md': text('# hello'),
  'pytorch_model.bin': text('pickle'),
  'onnx/model.onnx': text('x'),
  '.gitattributes': text(''),
};
const gguf = golden('gguf/byte-level.gguf');
const norms = ['output_norm.weight', 'blk.0.attn_norm.weight', 'blk.0.ffn_norm.weight'];
const matrices = ['attn_q', 'attn_k', 'attn_v', 'attn_output', 'ffn_gate', 'ffn_up', 'ffn_down'].map((name) => `blk.0.${name}.weight`);
const part = (i: number) =>
  new Uint8Array(tinyLlama({ 'split.no': i, 'split.count': 2 }, i === 0 ? norms : ['token_embd.weight', ...matrices]));
const repositories = {
  'owner/model': { ...unwanted, ...model },
  'owner/gguf': { 'README.md': text('#'), 'model.Q4.gguf': gguf },
  'owner/ggufs': { 'a.Q4.gguf': gguf, 'b.Q8.gguf': gguf },
  'owner/split': { 'm-00001-of-00002.gguf': part(0), 'm-00002-of-00002.gguf': part(1), 'whole.gguf': gguf },
  'owner/pickled': { 'config.json': model['config.json'], 'pytorch_model.bin': text('pickle') },
  'owner/hostile': { ...model, '../../../escaped.json': text('x') },
};

const variables = ['HF_HOME', 'HF_HUB_CACHE', 'HF_TOKEN', 'HF_TOKEN_PATH', 'HF_ENDPOINT', 'HF_HUB_OFFLINE', 'TRANSFORMERS_OFFLINE'];
let home: string;
let hub: Awaited<ReturnType<typeof startHub>> | undefined;
beforeEach(() => {
  home = mkdtempSync(join(tmpdir(), 'lowrank-hub-'));
  for (const name of [...variables, 'HUGGINGFACE_HUB_CACHE', 'HUGGING_FACE_HUB_TOKEN']) delete process.env[name];
  process.env.HF_HOME = home;
});
afterEach(async () => {
  await hub?.close();
  hub = undefined;
  for (const name of variables) delete process.env[name];
  rmSync(home, { recursive: true, force: true });
});

async function serve(fault?: HubFault) {
  hub = await startHub(repositories, fault);
  process.env.HF_ENDPOINT = hub.endpoint;
  return hub;
}

async function errorOf(promise: Promise<unknown>): Promise<LowrankError> {
  const error = await promise.then(
    () => undefined,
    (thrown) => thrown,
  );
  expect(error).toBeInstanceOf(LowrankError);
  return error;
}

const repository = () => join(home, 'hub/models--owner--model');
const blob = () => join(repository(), 'blobs', sha256(model['model.safetensors']));

test('a family that cannot be trained is refused before its weights are downloaded', async () => {
  hub = await startHub({ ...repositories, 'owner/strange': { ...model, 'config.json': text('{"model_type": "strange"}') } });
  process.env.HF_ENDPOINT = hub.endpoint;
  const error = await errorOf(nodeHost.openModel('owner/strange'));
  expect(error.message).toMatch(/^owner\/strange: config.json: model_type "strange" is not supported/);
  expect(hub.requests.some(({ path }) => path.endsWith('.safetensors'))).toBe(false);
});

test('takes only what loading needs, into the layout of Python’s cache', async () => {
  const { requests } = await serve();
  const progress: string[] = [];
  const source = await openModel('owner/model', {
    onProgress: ({ file, done, total }) => {
      if (done === total) progress.push(file);
    },
  });
  expect(source).toMatchObject({ name: 'owner/model', revision: commit, config: { model_type: 'llama' } });
  expect(source.tokenizer).toMatchObject({ chatTemplate: '{{ messages }}', tokenizerConfig: { eos_token: '</s>' } });
  expect(source.checkpoint.tensors.has('model.norm.weight')).toBe(true);
  await source.checkpoint.close();
  expect(progress.sort()).toEqual(Object.keys(model).sort());
  expect(requests.filter(({ path }) => /README|pytorch|onnx|git/.test(path))).toEqual([]);

  const snapshot = join(repository(), 'snapshots', commit);
  expect(readdirSync(snapshot).sort()).toEqual(Object.keys(model).sort());
  expect(readFileSync(join(repository(), 'refs/main'), 'utf8')).toBe(commit);
  expect(readlinkSync(join(snapshot, 'model.safetensors'))).toBe(`../../blobs/${sha256(model['model.safetensors'])}`);
  expect(readlinkSync(join(snapshot, 'config.json'))).toBe(`../../blobs/${gitHash(model['config.json'])}`);
  for (const [name, bytes] of Object.entries(model)) expect(new Uint8Array(readFileSync(join(snapshot, name)))).toEqual(bytes);
  expect(await cachedModel('owner/model')).toBe(snapshot);
  expect(cacheFolder()).toBe(join(home, 'hub'));
});

test('what is in the cache is not downloaded again, and a known commit asks for nothing', async () => {
  const { requests } = await serve();
  await (await openModel('owner/model')).checkpoint.close();
  requests.length = 0;
  await (await openModel('owner/model')).checkpoint.close();
  expect(requests.map(({ path }) => path)).toEqual([
    `/api/models/owner/model/revision/main`,
    ...Array(2).fill(`/api/models/owner/model/tree/${commit}`),
  ]);
  requests.length = 0;
  await (await openModel('owner/model', { revision: commit })).checkpoint.close();
  expect(requests).toEqual([]);
});

test('a .gguf repository, and one file among several', async () => {
  await serve();
  const only = await openModel('owner/gguf');
  expect(only).toMatchObject({ name: 'owner/gguf', revision: commit });
  await only.checkpoint.close();
  expect(await cachedModel('owner/gguf')).toBe(join(home, 'hub/models--owner--gguf/snapshots', commit, 'model.Q4.gguf'));
  const error = await errorOf(openModel('owner/ggufs'));
  expect(error.mend).toBe('choose owner/ggufs/a.Q4.gguf, owner/ggufs/b.Q8.gguf');
  const chosen = await openModel('owner/ggufs/b.Q8.gguf');
  expect(chosen.revision).toBe(commit);
  await chosen.checkpoint.close();
  expect((await errorOf(openModel('owner/ggufs/c.gguf'))).message).toMatch(/no c\.gguf[\s\S]*a\.Q4\.gguf/);
  expect((await errorOf(openModel('owner/pickled'))).mend).toMatch(/convert its weights/);
});

test('all parts of a split model, whichever is named', async () => {
  await serve();
  const error = await errorOf(openModel('owner/split'));
  expect(error.mend).toBe('choose owner/split/m-00001-of-00002.gguf, owner/split/whole.gguf');
  const source = await openModel('owner/split/m-00002-of-00002.gguf');
  expect(source.checkpoint.tensors.size).toBe(11);
  await source.checkpoint.close();
  // One part alone in the cache is no model.
  rmSync(join(home, 'hub/models--owner--split/snapshots', commit, 'm-00001-of-00002.gguf'));
  expect(await cachedModel('owner/split/m-00002-of-00002.gguf')).toBeUndefined();
});

test('a cut connection is resumed where it broke', async () => {
  const after = 10_000;
  const { requests } = await serve({ cut: { file: 'model.safetensors', after, times: 2 } });
  await (await openModel('owner/model')).checkpoint.close();
  const ranges = requests.filter(({ path }) => path.includes('/cdn/')).map(({ range }) => range);
  expect(ranges).toEqual([undefined, `bytes=${after}-`, `bytes=${2 * after}-`]);
  expect(new Uint8Array(readFileSync(blob()))).toEqual(model['model.safetensors']);
});

test('a signal ends a download with its reason; the next attempt goes on where it ended', async () => {
  const { requests } = await serve({ cut: { file: 'model.safetensors', after: 20_000, times: 1 } });
  const controller = new AbortController();
  const reason = new Error('enough');
  const onProgress = ({ file }: { file: string }) => file === 'model.safetensors' && controller.abort(reason);
  await expect(openModel('owner/model', { onProgress, signal: controller.signal })).rejects.toBe(reason);
  const { size } = lstatSync(`${blob()}.incomplete`);
  expect(size).toBeGreaterThan(0);
  requests.length = 0;
  await expect(openModel('owner/model', { signal: controller.signal })).rejects.toBe(reason);
  expect(requests).toEqual([]);
  await (await openModel('owner/model')).checkpoint.close();
  expect(requests.filter(({ range }) => range === `bytes=${size}-`).length).toBeGreaterThan(0);
});

test('an earlier process’s part is completed; a server without ranges begins again', async () => {
  for (const noRanges of [false, true]) {
    const { requests } = await serve({ noRanges });
    mkdirSync(join(repository(), 'blobs'), { recursive: true });
    writeFileSync(`${blob()}.incomplete`, model['model.safetensors'].subarray(0, 5000));
    await (await openModel('owner/model')).checkpoint.close();
    expect(requests.find(({ path }) => path.includes('/cdn/'))?.range).toBe('bytes=5000-');
    expect(new Uint8Array(readFileSync(blob()))).toEqual(model['model.safetensors']);
    expect(existsSync(`${blob()}.incomplete`)).toBe(false);
    rmSync(repository(), { recursive: true });
    await hub?.close();
  }
});

test('wrong bytes never get into the cache', async () => {
  await serve({ corrupt: 'model.safetensors' });
  const error = await errorOf(openModel('owner/model'));
  expect(error.place).toBe('owner/model/model.safetensors');
  expect(error.expected).toBe(sha256(model['model.safetensors']));
  expect(readdirSync(join(repository(), 'blobs'))).not.toContain(sha256(model['model.safetensors']));
  expect(readdirSync(join(repository(), 'blobs')).filter((name) => name.endsWith('.incomplete'))).toEqual([]);
  expect(await cachedModel('owner/model')).toBeUndefined();
  await hub?.close();
  rmSync(repository(), { recursive: true });
  await serve({ corrupt: 'config.json' });
  expect((await errorOf(openModel('owner/model'))).expected).toBe(gitHash(model['config.json']));
});

test('a download that keeps breaking ends with an error and keeps what came', async () => {
  await serve({ cut: { file: 'model.safetensors', after: 0, times: 99 } });
  mkdirSync(join(repository(), 'blobs'), { recursive: true });
  writeFileSync(`${blob()}.incomplete`, model['model.safetensors'].subarray(0, 5000));
  const error = await errorOf(openModel('owner/model'));
  expect(error.message).toMatch(/broke off[\s\S]*goes on where it stopped/);
  expect(lstatSync(`${blob()}.incomplete`).size).toBe(5000);
});

test('refusals say what to do', async () => {
  const cases: [HubFault, string, RegExp][] = [
    [{ refuse: { status: 401, code: 'RepoNotFound' } }, 'owner/model', /no such public model[\s\S]*check the name[\s\S]*HF_TOKEN/],
    [{ refuse: { status: 403, code: 'GatedRepo' } }, 'owner/model', /gated[\s\S]*ask for access at http:\/\/127.*owner\/model/],
    [{ refuse: { status: 401, code: 'GatedRepo' } }, 'owner/model', /gated[\s\S]*HF_TOKEN/],
    [{ refuse: { status: 403 } }, 'owner/model', /gives no access/],
    [{ refuse: { status: 429 } }, 'owner/model', /refuses more requests[\s\S]*wait/],
    [{ refuse: { status: 503 } }, 'owner/model', /status 503[\s\S]*later/],
    [{}, 'owner/absent', /no such model[\s\S]*path of its folder/],
  ];
  for (const [fault, id, message] of cases) {
    await serve(fault);
    const error = await errorOf(openModel(id));
    expect(error.message).toMatch(message);
    expect(error.place).toBe(id);
    await hub?.close();
  }
  await serve();
  expect((await errorOf(openModel('owner/model', { revision: 'v9' }))).message).toMatch(/no revision "v9"/);
  expect((await errorOf(openModel('owner/model', { revision: '../x' }))).message).toMatch(/is no revision/);
});

test('an unreachable hub: the cache serves, or the error says so; offline asks nothing', async () => {
  process.env.HF_ENDPOINT = 'http://127.0.0.1:9';
  expect((await errorOf(openModel('owner/model'))).message).toMatch(/cannot be reached: [\s\S]*HF_ENDPOINT/);
  process.env.HF_HUB_OFFLINE = '1';
  expect((await errorOf(openModel('owner/model'))).message).toMatch(/not in the cache[\s\S]*HF_HUB_OFFLINE/);
  delete process.env.HF_HUB_OFFLINE;
  await serve();
  await (await openModel('owner/model')).checkpoint.close();
  await hub?.close();
  const cached = await openModel('owner/model');
  expect(cached.revision).toBe(commit);
  await cached.checkpoint.close();
  const { requests } = await serve();
  process.env.HF_HUB_OFFLINE = 'TRUE';
  await (await openModel('owner/model')).checkpoint.close();
  expect(requests).toEqual([]);
  rmSync(join(repository(), 'snapshots', commit, 'tokenizer.json'));
  expect(await cachedModel('owner/model')).toBeUndefined();
  await errorOf(openModel('owner/model'));
});

test('the token comes from HF_TOKEN or the token file, and goes only to the hub', async () => {
  const { requests } = await serve({ token: 'secret' });
  await errorOf(openModel('owner/model'));
  writeFileSync(join(home, 'token'), ' secret\n');
  await (await openModel('owner/model')).checkpoint.close();
  process.env.HF_TOKEN = 'other';
  expect((await errorOf(openModel('owner/gguf'))).mend).toMatch(/make a new token/);
  process.env.HF_TOKEN = 'secret';
  await (await openModel('owner/gguf')).checkpoint.close();
  const authorized = (part: string) =>
    new Set(requests.filter(({ path, query }) => (path + query).includes(part)).map((request) => request.authorized));
  expect(authorized('/cdn/')).toEqual(new Set([false]));
  expect(authorized('cursor=')).toEqual(new Set([false]));
  expect(authorized('owner/gguf/resolve')).toEqual(new Set([true]));
});

test('HF_HUB_CACHE moves the cache, and no file leaves it', async () => {
  process.env.HF_HUB_CACHE = join(home, 'elsewhere');
  await serve();
  await (await openModel('owner/hostile')).checkpoint.close();
  expect(readdirSync(home)).toEqual(['elsewhere']);
  expect(existsSync(join(tmpdir(), 'escaped.json'))).toBe(false);
});

test('two that want the same model at once download it once', async () => {
  const { requests } = await serve();
  const sources = await Promise.all([openModel('owner/model'), openModel('owner/model')]);
  for (const source of sources) await source.checkpoint.close();
  expect(requests.filter(({ path }) => path.includes('/cdn/'))).toHaveLength(1);
});

test('a lock that a dead process left behind is taken over', async () => {
  await serve();
  const lock = join(home, 'hub/.locks/models--owner--model', `${gitHash(model['config.json'])}.lowrank`);
  mkdirSync(lock, { recursive: true });
  utimesSync(lock, 0, Date.now() / 1000 - 3600);
  await (await openModel('owner/model')).checkpoint.close();
  expect(existsSync(lock)).toBe(false);
});

test('what is neither a path nor an id', async () => {
  for (const spec of ['./nowhere', '/no/such/folder', 'a/b/c', 'missing.gguf', '', 'a--b/c', '../x', 'owner/..']) {
    expect((await errorOf(openModel(spec))).message, spec).toMatch(/no such file or folder/);
  }
});
