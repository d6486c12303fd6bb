import { LowrankError } from '#lowrank/util/errors.js';
import { Random } from '#lowrank/util/philox.js';
import { Coverage } from './coverage.js';
import { draw, pick } from './mutate.js';
import type { Files, Target } from './targets.js';

/** How an input ended: understood or not, and what was thrown that is no LowrankError. */
export interface Ending {
  parsed: boolean;
  raw?: unknown;
  /** What a LowrankError said, without what differs from input to input. */
  refusal?: string;
}

/** Gives an input to a target. */
export async function runInput(target: Target, files: Files): Promise<Ending> {
  let parsed = false;
  try {
    await target.run(files, () => {
      parsed = true;
    });
    return { parsed };
  } catch (error) {
    if (!(error instanceof LowrankError)) return { parsed, raw: error };
    return { parsed, refusal: error.problem.replace(/"[^"]*"|\d+/g, '…').slice(0, 100) };
  }
}

/** Bytes of inputs that are kept. */
const corpusBytes = 64 << 20;

/** Makes inputs out of a target's seeds and of those inputs that led to places in the code where none had been. */
export class Session {
  readonly target: Target;
  private readonly seed: number;
  private readonly corpus: Files[];
  /** Those of it that were understood: from one that was refused few ways lead further. */
  private readonly sound: Files[];
  private readonly seeds: number;
  private bytes = 0;
  private readonly refusals = new Set<string>();
  private readonly coverage?: Coverage;

  constructor(target: Target, seed: number, { coverage = true }: { coverage?: boolean } = {}) {
    this.target = target;
    this.seed = seed;
    this.corpus = [...target.seeds()];
    this.sound = [...this.corpus];
    this.seeds = this.corpus.length;
    if (coverage) {
      this.coverage = new Coverage();
      this.coverage.start();
    }
  }

  get kept(): number {
    return this.corpus.length;
  }

  get places(): number {
    return this.coverage?.size ?? 0;
  }

  /** The input of this number: a kept one with one to four changes, mostly few. The first are the seeds themselves. */
  input(index: number): Files {
    if (index < this.seeds) return this.corpus[index];
    const random = new Random(this.seed, index);
    const parents = draw(random, 4) > 0 ? this.sound : this.corpus;
    // The newest are what the code has seen least of.
    const files: Record<string, Uint8Array> = { ...pick(random, draw(random, 2) === 0 ? parents.slice(-20) : parents) };
    do {
      const name = pick(random, Object.keys(files));
      files[name] = this.target.mutator(name)(files[name], random);
    } while (draw(random, 3) === 0);
    return files;
  }

  /** Runs an input and keeps it where it is news: by the places that ran, or by what was said of it. */
  async run(files: Files): Promise<Ending> {
    const ending = await runInput(this.target, files);
    const news = (this.coverage?.news() ?? 0) > 0 || (ending.refusal !== undefined && !this.refusals.has(ending.refusal));
    if (ending.refusal !== undefined) this.refusals.add(ending.refusal);
    const size = Object.values(files).reduce((sum, bytes) => sum + bytes.length, 0);
    if (news && this.bytes + size < corpusBytes) {
      this.corpus.push(files);
      if (ending.parsed) this.sound.push(files);
      this.bytes += size;
    }
    return ending;
  }
}
