/**
 * What a shared library of any platform gives and wants: exported and imported symbols and the libraries that it needs, read from the
 * file itself, since no machine has the tools of all systems. ELF: System V ABI, gABI chapters 4 and 5; Mach-O: <mach-o/loader.h>; PE:
 * Microsoft's PE format.
 */
import { readFileSync } from 'node:fs';

/**
 * @returns {{ format: string, arch: string, exports: string[], imports: string[], libraries: string[], versions: string[],
 *   signed?: boolean }}
 */
export function inspect(path) {
  const bytes = readFileSync(path);
  const read = {
    u8: (at) => bytes.readUInt8(at),
    u16: (at) => bytes.readUInt16LE(at),
    u32: (at) => bytes.readUInt32LE(at),
    u64: (at) => Number(bytes.readBigUInt64LE(at)),
    text: (at) => bytes.toString('latin1', at, bytes.indexOf(0, at)),
  };
  const magic = bytes.readUInt32BE(0);
  if (magic === 0x7f454c46) return { format: 'ELF', ...elf(read) };
  if (magic === 0xcffaedfe) return { format: 'Mach-O', ...machO(read) };
  if (magic >>> 16 === 0x4d5a) return { format: 'PE', ...pe(read) };
  throw new Error(`${path}: not a 64-bit ELF, Mach-O or PE file`);
}

const range = (count) => Array.from({ length: count }, (_, i) => i);

function elf({ u8, u16, u32, u64, text }) {
  const sections = range(u16(60)).map((i) => {
    const at = u64(40) + i * u16(58);
    return { type: u32(at + 4), offset: u64(at + 24), size: u64(at + 32), link: u32(at + 40), entries: u32(at + 44) };
  });
  const ofType = (type) => sections.find((section) => section.type === type);
  const [symbols, dynamic, needed] = [ofType(11), ofType(6), ofType(0x6ffffffe)];
  const strings = sections[symbols.link].offset;
  const named = range(symbols.size / 24).map((i) => {
    const at = symbols.offset + 24 * i;
    return { name: text(strings + u32(at)), defined: u16(at + 6) !== 0, global: u8(at + 4) >> 4 !== 0 };
  });
  const libraries = range(dynamic.size / 16)
    .map((i) => dynamic.offset + 16 * i)
    .filter((at) => u64(at) === 1)
    .map((at) => text(strings + u64(at + 8)));
  const versions = [];
  for (let i = 0, at = needed?.offset; i < (needed?.entries ?? 0); i++, at += u32(at + 12)) {
    for (let j = 0, entry = at + u32(at + 8); j < u16(at + 2); j++, entry += u32(entry + 12)) versions.push(text(strings + u32(entry + 8)));
  }
  const names = (defined) => named.filter((symbol) => symbol.name && symbol.global && symbol.defined === defined).map(({ name }) => name);
  return { arch: { 62: 'x64', 183: 'arm64' }[u16(18)], exports: names(true), imports: names(false), libraries, versions };
}

function machO({ u8, u32, text }) {
  const commands = [];
  for (let i = 0, at = 32; i < u32(16); i++, at += u32(at + 4)) commands.push({ type: u32(at), at });
  const table = commands.find(({ type }) => type === 2).at;
  const named = range(u32(table + 12)).map((i) => {
    const at = u32(table + 8) + 16 * i;
    return { name: text(u32(table + 16) + u32(at)).replace(/^_/, ''), kind: u8(at + 4) };
  });
  // External and not private; of no section where it is undefined.
  const global = named.filter(({ kind }) => (kind & 0x11) === 1);
  const least = commands.find(({ type }) => type === 0x32);
  return {
    arch: { 16777223: 'x64', 16777228: 'arm64' }[u32(4)],
    exports: global.filter(({ kind }) => (kind & 0x0e) !== 0).map(({ name }) => name),
    imports: global.filter(({ kind }) => (kind & 0x0e) === 0).map(({ name }) => name),
    libraries: commands.filter(({ type }) => type === 0xc).map(({ at }) => text(at + u32(at + 8))),
    // Apple's processors run nothing that is not signed, if only by its linker.
    signed: commands.some(({ type }) => type === 0x1d),
    versions: least ? [`macOS_${u32(least.at + 12) >> 16}.${(u32(least.at + 12) >> 8) & 0xff}`] : [],
  };
}

function pe({ u16, u32, u64, text }) {
  const header = u32(0x3c) + 4;
  const optional = header + 20;
  const sections = range(u16(header + 2)).map((i) => {
    const at = optional + u16(header + 16) + 40 * i;
    return { size: u32(at + 8), address: u32(at + 12), offset: u32(at + 20) };
  });
  const offsetOf = (address) => {
    const section = sections.find((one) => address >= one.address && address < one.address + one.size);
    return address - section.address + section.offset;
  };
  const [exported, imported] = [u32(optional + 112), u32(optional + 120)];
  const table = offsetOf(exported);
  const names = offsetOf(u32(table + 32));
  const libraries = [];
  const imports = [];
  for (let at = offsetOf(imported); u32(at + 12) !== 0; at += 20) {
    libraries.push(text(offsetOf(u32(at + 12))));
    // A number in place of a name has the highest bit.
    for (let entry = offsetOf(u32(at) || u32(at + 16)); u64(entry) !== 0; entry += 8) {
      if (u32(entry + 4) >>> 31 === 0) imports.push(text(offsetOf(u32(entry)) + 2));
    }
  }
  return {
    arch: { 34404: 'x64', 43620: 'arm64' }[u16(header)],
    exports: range(u32(table + 24)).map((i) => text(offsetOf(u32(names + 4 * i)))),
    imports,
    libraries,
    versions: [],
  };
}

/**
 * An ELF file without debugging information; names of functions stay, for tests and profilers. zig can leave out both or neither.
 * Sections keep their numbers: those that go are empty.
 */
export function withoutDebugging(bytes) {
  const start = Number(bytes.readBigUInt64LE(40));
  const headers = Buffer.from(bytes.subarray(start, start + bytes.readUInt16LE(58) * bytes.readUInt16LE(60)));
  const sections = range(bytes.readUInt16LE(60)).map((i) => {
    const header = headers.subarray(64 * i, 64 * i + 64);
    const [flags, offset, size, alignment] = [8, 24, 32, 48].map((at) => Number(header.readBigUInt64LE(at)));
    return { header, name: header.readUInt32LE(0), type: header.readUInt32LE(4), loaded: (flags & 2) !== 0, offset, size, alignment };
  });
  const names = sections[bytes.readUInt16LE(62)].offset;
  const isDebugging = ({ name }) => /^\.debug_/.test(bytes.toString('latin1', names + name, names + name + 7));
  // What is loaded stands before all else.
  const loaded = sections.filter((section) => section.loaded && section.type !== 8);
  const parts = [bytes.subarray(0, Math.max(...loaded.map(({ offset, size }) => offset + size)))];
  let length = parts[0].length;
  const append = (part, alignment) => {
    const padding = -length & (Math.max(alignment, 1) - 1);
    parts.push(Buffer.alloc(padding), part);
    length += padding + part.length;
    return BigInt(length - part.length);
  };
  for (const section of sections.filter(({ loaded, size }) => !loaded && size > 0)) {
    const { header, offset, size, alignment } = section;
    if (isDebugging(section)) header.fill(0, 4);
    else header.writeBigUInt64LE(append(bytes.subarray(offset, offset + size), alignment), 24);
  }
  const table = append(headers, 8);
  const whole = Buffer.concat(parts);
  whole.writeBigUInt64LE(table, 40);
  return whole;
}
