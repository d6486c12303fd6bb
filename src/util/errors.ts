/** What a message needs besides the problem itself: where it is, what was expected, what would mend it. */
export interface ErrorDetails {
  /** File, line, column, tensor, row or op: `data.jsonl:12:7`, `model.safetensors: tensor "x"`. */
  place?: string;
  expected?: string;
  /** One imperative sentence: what the user should do. */
  mend?: string;
  cause?: unknown;
}

/**
 * The one error class of the project: every failure that a user can cause or mend is thrown as this.
 * `message` is one paragraph for a terminal; the parts stay readable for programs.
 */
export class LowrankError extends Error {
  readonly problem: string;
  readonly place?: string;
  readonly expected?: string;
  readonly mend?: string;

  /** `problem` says what is wrong, without a full stop; the message is composed of it and the details. */
  constructor(problem: string, details: ErrorDetails = {}) {
    const { place, expected, mend, cause } = details;
    const parts = [place ? `${place}: ${problem}` : problem];
    if (expected) parts.push(`expected: ${expected}`);
    if (mend) parts.push(`to mend: ${mend}`);
    super(parts.join('\n  '), cause === undefined ? undefined : { cause });
    this.name = 'LowrankError';
    this.problem = problem;
    this.place = place;
    this.expected = expected;
    this.mend = mend;
  }
}

/** The message of anything that was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** The candidate nearest to `word` by edit distance, or undefined where none is near (more than a third of its length away). */
export function nearest(word: string, candidates: Iterable<string>): string | undefined {
  let best: string | undefined;
  let bestDistance = Math.max(2, Math.floor(word.length / 3)) + 1;
  for (const candidate of candidates) {
    const distance = editDistance(word, candidate);
    if (distance < bestDistance) {
      best = candidate;
      bestDistance = distance;
    }
  }
  return best;
}

function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      next[j] = Math.min(row[j] + 1, next[j - 1] + 1, row[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1));
    }
    row = next;
  }
  return row[b.length];
}
