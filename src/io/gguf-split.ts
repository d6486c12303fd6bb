import { LowrankError } from '../util/errors.js';
import { type GgufFile, type GgufTensor, readGguf } from './gguf.js';
import { GgufMetadata } from './gguf-metadata.js';
import type { FileSource, NamedFiles } from './source.js';

/**
 * How llama-gguf-split names the parts of a model (https://github.com/ggml-org/llama.cpp/tree/master/tools/gguf-split): the first has all
 * metadata, each says with `split.no` and `split.count` which it is of how many, and with `split.tensors.count` how many tensors all have.
 */
const partName = /^(.*)-(\d{5})-of-(\d{5})\.gguf$/;

/** The names of all parts of the set that a file's name belongs to, or the name alone. */
export function partsOf(name: string): string[] {
  const [, base, no, count] = partName.exec(name) ?? [];
  if (base === undefined || Number(no) < 1 || Number(no) > Number(count)) return [name];
  return Array.from({ length: Number(count) }, (_, i) => `${base}-${String(i + 1).padStart(5, '0')}-of-${count}.gguf`);
}

/** Of the names of files those of models in GGUF: a split one by its first part, whichever of them are there. */
export function ggufNames(names: Iterable<string>): string[] {
  return [...new Set([...names].filter((name) => name.endsWith('.gguf')).map((name) => partsOf(name)[0]))];
}

const fileNameOf = (file: FileSource) => file.name.slice(Math.max(file.name.lastIndexOf('/'), file.name.lastIndexOf('\\')) + 1);

/**
 * What `readGguf` reads, of all parts where the file is one of several: metadata of the first, tensors of all. The others are looked for in
 * `siblings`, by name; the error where some are missing names them. `files` are those that were opened, `file` among them.
 */
export async function readGgufParts(file: FileSource, siblings?: NamedFiles): Promise<GgufFile & { files: FileSource[] }> {
  const files = [file];
  try {
    const given = await readGguf(file);
    const metadata = new GgufMetadata(file.name, given.metadata);
    const count = metadata.count('split.count') ?? 1;
    if (count <= 1) return { ...given, files };
    const name = fileNameOf(file);
    const names = partsOf(name);
    if (names.length !== count) {
      const [no, of] = [(metadata.count('split.no') ?? 0) + 1, count].map((n) => String(n).padStart(5, '0'));
      const expected = `a name such as NAME-${no}-of-${of}.gguf`;
      const mend = 'give the parts the names that they were published with, or join them with llama-gguf-split --merge';
      throw new LowrankError(`is one of ${count} parts, and its name does not say which`, { place: file.name, expected, mend });
    }
    const parts: GgufFile[] = [];
    const missing: string[] = [];
    for (const each of names) {
      const opened = each === name ? undefined : await siblings?.open(each);
      if (opened) files.push(opened);
      else if (each !== name) missing.push(each);
      if (missing.length === 0) parts.push(opened ? await readGguf(opened) : given);
    }
    if (missing.length > 0) {
      const mend = `put all ${count} parts into one folder`;
      throw new LowrankError(`parts of the model are missing: ${missing.join(', ')}`, { place: siblings?.name ?? file.name, mend });
    }
    return { ...parts[0], tensors: joined(parts, count), files };
  } catch (error) {
    for (const opened of files) await opened.close();
    throw error;
  }
}

/** The tensors of all parts, each of which must be what its name says. */
function joined(parts: readonly GgufFile[], count: number): Map<string, GgufTensor> {
  const tensors = new Map<string, GgufTensor>();
  for (const [i, { file, metadata, tensors: own }] of parts.entries()) {
    const about = new GgufMetadata(file.name, metadata);
    const another = 'take all parts from one place';
    for (const [key, expected] of [['split.count', count] as const, ['split.no', i] as const]) {
      const found = about.required(key, about.count(key));
      if (found !== expected) throw about.error(key, `is ${found}`, `${expected}, as its name says`, another);
    }
    for (const [name, tensor] of own) {
      if (tensors.has(name))
        throw new LowrankError('is in an earlier part, too', { place: `${file.name}: tensor "${name}"`, mend: another });
      tensors.set(name, tensor);
    }
  }
  const about = new GgufMetadata(parts[0].file.name, parts[0].metadata);
  const wanted = about.count('split.tensors.count');
  if (wanted !== undefined && wanted !== tensors.size)
    throw about.error(
      'split.tensors.count',
      `is ${wanted}, and the parts hold ${tensors.size} tensors`,
      undefined,
      'download the parts again',
    );
  return tensors;
}
