import { createHash } from 'node:crypto';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

export const commit = '0123456789abcdef0123456789abcdef01234567';

export interface HubFault {
  /** Closes the connection after so many bytes of a file, as many times. */
  cut?: { file: string; after: number; times: number };
  /** Sends other bytes than were announced. */
  corrupt?: string;
  /** Answers everything with this status and X-Error-Code. */
  refuse?: { status: number; code?: string };
  /** Serves nothing without this token. */
  token?: string;
  /** Ignores Range. */
  noRanges?: boolean;
}

/**
 * A server with the endpoints of huggingface.co that loading a model takes; large files are redirected to another host, as there,
 * and so is the second page of a list.
 */
export async function startHub(repositories: Record<string, Record<string, Uint8Array>>, fault: HubFault = {}) {
  const requests: { path: string; query: string; range?: string; authorized: boolean }[] = [];
  const server = createServer((request, response) => {
    const url = new URL(request.url!, 'http://hub');
    requests.push({
      path: url.pathname,
      query: url.search,
      range: request.headers.range,
      authorized: request.headers.authorization !== undefined,
    });
    const refuse = (status: number, code?: string) =>
      response.writeHead(status, { 'content-type': 'application/json', ...(code && { 'x-error-code': code }) }).end('{"error":"refused"}');
    if (fault.refuse) return refuse(fault.refuse.status, fault.refuse.code);
    const elsewhere = `http://localhost:${request.socket.localPort}`;
    if (fault.token && !request.headers.host?.startsWith('localhost') && request.headers.authorization !== `Bearer ${fault.token}`)
      return refuse(401, 'RepoNotFound');
    const [, api, owner, name, kind, revision, file] =
      /^(\/api\/models)?\/(\w+)\/([\w.-]+)\/(revision|tree|resolve|cdn)\/([\w.-]+)(?:\/(.+))?$/.exec(url.pathname) ?? [];
    const files = repositories[`${owner}/${name}`];
    if (!files) return refuse(404, 'RepoNotFound');
    if (revision !== 'main' && revision !== commit) return refuse(404, 'RevisionNotFound');
    if (api && kind === 'tree') {
      const tree = treeOf(files);
      const second = url.searchParams.has('cursor');
      if (!second) response.setHeader('link', `<${elsewhere}${url.pathname}?cursor=2>; rel="next"`);
      return sendJson(response, second ? tree.slice(3) : tree.slice(0, 3));
    }
    if (api) return sendJson(response, { _id: '1', id: `${owner}/${name}`, sha: commit, lastModified: 0 });
    if (!files[file]) return refuse(404, 'EntryNotFound');
    if (kind === 'resolve' && isLarge(file)) {
      return response.writeHead(302, { location: `${elsewhere}${url.pathname.replace('/resolve/', '/cdn/')}` }).end();
    }
    return sendFile(request, response, file, files[file], fault);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    requests,
    close: () => {
      server.closeAllConnections();
      return new Promise((resolve) => server.close(resolve));
    },
  };
}

const isLarge = (file: string) => /\.(safetensors|gguf|bin)$/.test(file);

function sendJson(response: ServerResponse, value: unknown): void {
  response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(value));
}

export const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');
export const gitHash = (bytes: Uint8Array) => createHash('sha1').update(`blob ${bytes.length}\0`).update(bytes).digest('hex');

function treeOf(files: Record<string, Uint8Array>): unknown[] {
  const entries = Object.entries(files).map(([path, bytes]) => {
    const lfs = isLarge(path) ? { lfs: { oid: sha256(bytes), size: bytes.length, pointerSize: 130 } } : {};
    return { type: 'file', path, size: bytes.length, oid: gitHash(isLarge(path) ? new Uint8Array() : bytes), ...lfs };
  });
  return [...entries, { type: 'directory', path: 'onnx', size: 0, oid: commit }];
}

function sendFile(request: IncomingMessage, response: ServerResponse, file: string, bytes: Uint8Array, fault: HubFault): void {
  const [, from, to] = (!fault.noRanges && /bytes=(\d+)-(\d*)/.exec(request.headers.range ?? '')) || [];
  const start = Number(from ?? 0);
  const body = bytes.slice(start, to ? Number(to) + 1 : undefined);
  if (fault.corrupt === file) body[body.length - 1] ^= 1;
  const range = from === undefined ? {} : { 'content-range': `bytes ${start}-${start + body.length - 1}/${bytes.length}` };
  response.writeHead(from === undefined ? 200 : 206, { 'content-length': body.length, ...range });
  if (fault.cut?.file === file && fault.cut.times > 0) {
    fault.cut.times--;
    response.write(body.subarray(0, fault.cut.after), () => setTimeout(() => response.destroy(), 20));
  } else response.end(body);
}
