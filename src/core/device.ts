import { debug } from '../util/debug.js';
import { type ErrorDetails, LowrankError, nearest } from '../util/errors.js';
import type { Backend } from './backend.js';

type Opener = () => Promise<Backend>;

/** Thrown by an opener whose backend is not installed here: another may serve. Everything else that it throws is an error. */
export class BackendUnavailable extends LowrankError {
  /** What running without it means, such as `40 times slower`. */
  readonly without: string;

  constructor(problem: string, details: ErrorDetails & { without: string }) {
    super(problem, details);
    this.without = details.without;
  }
}

const openers = new Map<string, Opener>();

/** Makes a backend known by name. Entry points (`index.ts`, `browser.ts`) call this; the first registered is the first choice. */
export function registerBackend(name: string, open: Opener): void {
  openers.set(name, open);
}

export function backendNames(): string[] {
  return [...openers.keys()];
}

async function opened(open: Opener): Promise<Backend> {
  const backend = await open();
  debug(1, () => `device ${backend.description}`);
  return backend;
}

/**
 * Opens a backend: the named one, or else the first registered one that is installed. Without a name the next one serves in place of one
 * that is not, and `onFallback` hears it in one line.
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
    return opened(open);
  }
  for (const [candidate, open] of openers) {
    try {
      return await opened(open);
    } catch (error) {
      if (!(error instanceof BackendUnavailable)) throw error;
      onFallback(`${error.problem}: all runs ${error.without} without backend "${candidate}"; to mend: ${error.mend ?? 'lowrank doctor'}`);
    }
  }
  throw new LowrankError('no backend is available', { mend: 'run `lowrank doctor`' });
}
