import { existsSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import type { ModelSource } from '../io/model-source.js';
import { LowrankError } from '../util/errors.js';

/** Throws where a command's result would take the place of something that it may not replace: without --overwrite of anything. */
export function refuseToReplace(out: string, { overwrite = false, adapter }: { overwrite?: boolean; adapter?: string }): void {
  if (!existsSync(out)) return;
  if (!overwrite) throw new LowrankError('exists already', { place: out, mend: 'add --overwrite, or choose another --out' });
  if (!existsSync(join(out, 'config.json'))) {
    const mend = 'remove it yourself, or choose another --out';
    throw new LowrankError('holds no model that --overwrite could replace', { place: out, expected: 'a folder with config.json', mend });
  }
  if (adapter !== undefined && isAround(out, resolve(adapter))) throw inUse(out, 'the adapter');
}

/** Throws where the result would take the place of the model that it is made of. */
export function refuseToReplaceSource(out: string, { path }: ModelSource): void {
  if (path !== undefined && isAround(out, resolve(path))) throw inUse(out, 'the model that is read');
}

function isAround(folder: string, path: string): boolean {
  return folder === path || (dirname(path) !== path && isAround(folder, dirname(path)));
}

const inUse = (out: string, what: string): LowrankError => new LowrankError(`holds ${what}`, { place: out, mend: 'choose another --out' });
