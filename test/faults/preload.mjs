/**
 * Loaded into a run by `node --import`, before anything else: counts each operation on files below one folder that changes them or makes
 * them last, and ends or fails the run at one of them. LOWRANK_FAULTS says it, as JSON:
 *
 * folder: below which operations count; report: a file that gets the list of them when the process ends by itself;
 * kill: number of the operation before which the process kills itself, from 1; code with from: the error that each operation gets from this
 * number on. ENOSPC only meets those that want room, after half of their bytes are written.
 *
 * Node's own `rm` of a folder and `appendFile` are many operations; here they are done one by one. Of a write there are two: before it and
 * when half of it is written. The addon's are those of paged memory.
 */

/**
 * Loaded into a run by `node --import`, before anything else: counts each operation on files below one folder that changes them or makes
 * them last, and ends or fails the run at one of them. LOWRANK_FAULTS says it, as JSON:
 *
 * folder: below which operations count; report: a file that gets the list of them when the process ends by itself;
 * kill: number of the operation before which the process kills itself, from 1; code with from: the error that each operation gets from this
 * number on. ENOSPC only meets those that want room, after half of their bytes are written.
 *
 * Node's own `rm` of a folder and `appendFile` are many operations; here they are done one by one. Of a write there are two: before it and
 * when half of it is written. The addon's are those of paged memory.
 */
import fs, { writeFileSync } from 'node:fs';
import promises from 'node:fs/promises';
import { syncBuiltinESMExports } from 'node:module';
import { join, resolve, sep } from 'node:path';

const { folder, report, kill, code, from = Number.POSITIVE_INFINITY } = JSON.parse(process.env.LOWRANK_FAULTS);
const real = { ...promises };
const operations = [];

function count(operation, path, wantsRoom = false) {
  const whole = resolve(String(path));
  if (whole !== folder && !whole.startsWith(folder + sep)) return;
  operations.push(`${operation} ${whole.slice(folder.length + 1)}`);
  if (operations.length === kill) {
    process.kill(process.pid, 'SIGKILL');
    for (;;);
  }
  if (operations.length >= from && (wantsRoom || code !== 'ENOSPC')) {
    const text = { ENOSPC: 'no space left on device', EROFS: 'read-only file system', EIO: 'i/o error' }[code];
    throw Object.assign(new Error(`${code}: ${text}, ${operation} '${whole}'`), { code, syscall: operation, path: whole });
  }
}

const pathOf = new WeakMap();
const isWriting = (flags) => (typeof flags === 'string' ? /[wa+]/.test(flags) : (flags & 3) !== 0);

promises.open = async (path, flags = 'r', mode = undefined) => {
  if (isWriting(flags)) count('open', path, /[wa]/.test(String(flags)));
  const handle = await real.open(path, flags, mode);
  pathOf.set(handle, path);
  return handle;
};

const probe = await real.open(process.execPath);
const handles = Object.getPrototypeOf(probe);
await probe.close();
const { writeFile, sync } = handles;
handles.writeFile = async function (data) {
  const path = pathOf.get(this);
  const bytes = Buffer.from(data);
  const half = bytes.length >> 1;
  count('write', path);
  await writeFile.call(this, bytes.subarray(0, half));
  count('write the rest of', path, true);
  await writeFile.call(this, bytes.subarray(half));
};
handles.sync = async function () {
  count('sync', pathOf.get(this));
  await sync.call(this);
};
for (const name of ['write', 'writev', 'appendFile', 'truncate', 'datasync', 'createWriteStream', 'utimes', 'chmod', 'chown'])
  handles[name] = () => notCounted(`FileHandle.${name}`);

promises.appendFile = async (path, data) => {
  const handle = await promises.open(path, 'a');
  await handle.writeFile(data).finally(() => handle.close());
};
promises.writeFile = async (path, data, options) => {
  const handle = await promises.open(path, options?.flag ?? 'w');
  await handle.writeFile(data).finally(() => handle.close());
};
promises.mkdir = async (path, options) => {
  if (!fs.existsSync(path)) count('mkdir', path, true);
  return real.mkdir(path, options);
};
promises.rename = async (from, to) => {
  // What is not there is not moved.
  if (fs.existsSync(from)) count('rename', from);
  return real.rename(from, to);
};
promises.rmdir = async (path) => {
  count('rmdir', path);
  return real.rmdir(path);
};
promises.unlink = async (path) => {
  count('unlink', path);
  return real.unlink(path);
};
promises.rm = async (path, { recursive = false, force = false } = {}) => {
  const stats = await real.lstat(path).catch((error) => {
    if (error.code !== 'ENOENT' || !force) throw error;
  });
  if (!stats) return;
  if (!stats.isDirectory()) return promises.unlink(path);
  if (!recursive) throw Object.assign(new Error(`EISDIR: is a directory, rm '${path}'`), { code: 'ERR_FS_EISDIR' });
  for (const name of await real.readdir(path)) await promises.rm(join(path, name), { recursive, force });
  await promises.rmdir(path);
};

const mkdirSync = fs.mkdirSync;
fs.mkdirSync = (path, options) => {
  if (!fs.existsSync(path)) count('mkdir', path, true);
  return mkdirSync(path, options);
};

// What would change a folder and is not counted ends the run with an error that nobody expects: the tests then say so.
function notCounted(name) {
  throw new Error(`test/faults/preload.mjs does not count ${name}`);
}
const others = /^(copyFile|cp|link|symlink|truncate|chmod|chown|lchown|lchmod|utimes|lutimes|mkdtemp)$/;
for (const name of Object.keys(real)) {
  if (!others.test(name)) continue;
  promises[name] = (path) => (resolve(String(path)).startsWith(folder) ? notCounted(name) : real[name](path));
}
const changing = /^(writeFile|appendFile|rename|rm|rmdir|unlink|write|writev|ftruncate|copyFile|cp|link|symlink|truncate)(Sync)?$/;
for (const name of Object.keys(fs)) {
  if (!changing.test(name)) continue;
  const original = fs[name];
  fs[name] = (path, ...rest) => {
    if (typeof path === 'string' && resolve(path).startsWith(folder)) notCounted(`fs.${name}`);
    return original(path, ...rest);
  };
}
syncBuiltinESMExports();

/** The addon makes files without names for paged memory and writes their pages back; a name that it has for a moment is not seen here. */
function countAddon(addon) {
  const allocatePaged = (handle, bytes, path) => {
    count('allocatePaged', join(path, 'paged'), true);
    return addon.allocatePaged(handle, bytes, path);
  };
  const release = (...args) => {
    count('release', join(folder, 'paged'));
    return addon.release(...args);
  };
  return { ...addon, allocatePaged, release };
}
const { dlopen } = process;
process.dlopen = (module, filename, ...rest) => {
  dlopen(module, filename, ...rest);
  if (filename.endsWith('lowrank.node')) module.exports = countAddon(module.exports);
};

process.on('exit', () => {
  if (report) writeFileSync(report, JSON.stringify(operations));
});
