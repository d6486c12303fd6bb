import { debug } from '../util/debug.js';
import { LowrankError, messageOf, nearest } from '../util/errors.js';
import type { Backend } from './backend.js';

type Opener = () => Promise<Backend>;

const openers = new Map<string, Opener>();

/** Makes a backend known by name. Entry points (`index.ts`, `browser.ts`) call this; the first registered is the first choice. */
export function registerBackend(name: string, open: Opener): void {
  openers.set(name, open);
}

export function backendNames(): string[] {
  return [...openers.keys()];
}

/**
 * Opens a backend: the named one, or else the first registered one that this machine can run. A named backend that cannot be opened is
 * an error; without a name the next one serves, and `onFallback` hears why.
 */
export async function openBackend(name?: string, onFallback: (message: string) => void = () => {}): Promise<Backend> {
  if (name !== undefined) {
    const open = openers.get(name);
    if (!open) {
      const near = nearest(name, openers.keys());
      throw new LowrankError(`there is no backend "${name}"`, {
        place: 'device',
        expected: backendNames().join(', '),
        mend: near ? `use "${near}"` : 'name one of these, or leave it out',
      });
    }
    return open();
  }
  for (const [candidate, open] of openers) {
    try {
      const backend = await open();
      debug(1, () => `device ${backend.description}`);
      return backend;
    } catch (error) {
      onFallback(`backend ${candidate} is not available: ${messageOf(error)}`);
    }
  }
  throw new LowrankError('no backend is available', { mend: 'run `lowrank doctor`' });
}
