/**
 * Lends an addon to the process at the other end of standard input and output (emulated.ts), in the other processor's Node. What comes and
 * goes is a frame of two lengths, JSON and bytes: calls, each with the length of its bytes, and what each gave.
 */
import { readSync, writeSync } from 'node:fs';
import { createRequire } from 'node:module';

const addon = createRequire(import.meta.url)(process.argv[2]);
const devices = [];

function read(length) {
  const bytes = new Uint8Array(length);
  for (let at = 0; at < length; ) {
    const some = readSync(0, bytes, at, length - at, null);
    if (some === 0) process.exit();
    at += some;
  }
  return bytes;
}

function write(bytes) {
  for (let at = 0; at < bytes.length; ) at += writeSync(1, bytes, at);
}

function perform([method, first, ...rest], bytes) {
  if (first === undefined) return addon[method]();
  if (method === 'open') {
    const { handle, command, instructionSet } = addon.open(first, ...rest);
    devices.push({ handle, command });
    return { handle: devices.length - 1, command: command.length, instructionSet };
  }
  const { handle, command } = devices[first];
  if (method === 'run') command.set(new Float64Array(bytes.buffer));
  return method === 'write' ? addon.write(handle, ...rest, bytes) : addon[method](handle, ...rest);
}

async function answer(call, bytes) {
  try {
    const value = await perform(call, bytes);
    return value instanceof ArrayBuffer ? { bytes: new Uint8Array(value) } : { value };
  } catch (error) {
    return { error: error.message };
  }
}

while (true) {
  const [length] = new Uint32Array(read(8).buffer);
  const calls = JSON.parse(new TextDecoder().decode(read(length)));
  const replies = [];
  for (const { call, bytes } of calls) replies.push(await answer(call, read(bytes)));
  const contents = replies.map(({ bytes }) => bytes ?? new Uint8Array(0));
  const json = new TextEncoder().encode(JSON.stringify(replies.map((reply, i) => ({ ...reply, bytes: contents[i].length }))));
  const size = contents.reduce((sum, { length }) => sum + length, 0);
  write(Buffer.concat([new Uint8Array(Uint32Array.of(json.length, size).buffer), json, ...contents]));
}
