import { LowrankError } from '../util/errors.js';
import { counted } from '../util/format.js';

/** What happens to rows that cannot be read or that the chat template refuses. */
export type InvalidRowsStrategy = 'raise' | 'drop';

/** A row that cannot be trained, and why: the parts of its error, plain data. */
export interface InvalidRow {
  place: string;
  problem: string;
  expected?: string;
  mend?: string;
}

/** An error that came of the row at `place`; throws it where it is not about that row. */
export function invalidRow(error: unknown, place: string): InvalidRow {
  if (!(error instanceof LowrankError) || (error.place !== place && !error.place?.startsWith(`${place}:`))) throw error;
  const { problem, expected, mend } = error;
  return { place: error.place ?? place, problem, expected, mend };
}

/** So many are enough for a message. */
const enough = 100;

/** The rows of a data set that cannot be trained: all of them are named at once, or left out and counted. */
export class InvalidRows {
  private readonly strategy: InvalidRowsStrategy;
  /** The data set's file, for errors. */
  private readonly name: string;
  private readonly rows: InvalidRow[] = [];
  count = 0;

  constructor(strategy: InvalidRowsStrategy, name: string) {
    this.strategy = strategy;
    this.name = name;
  }

  /** The first of the errors, as a warning says it. */
  get first(): string | undefined {
    const [row] = this.rows;
    return row && `${row.place}: ${row.problem}`;
  }

  /** Takes more rows, where `valid` others are trained; throws where they are not to be left out and there are enough for a message. */
  add(rows: readonly InvalidRow[], valid: number): void {
    this.count += rows.length;
    this.rows.push(...rows.slice(0, enough - this.rows.length));
    if (this.strategy === 'raise' && this.count >= enough) this.finish(valid);
  }

  /** Throws where there were any and they are not to be left out, and where none of the rows is left. */
  finish(valid: number): void {
    const rows = [...this.rows].sort((a, b) => lineOf(a) - lineOf(b));
    const [first] = rows;
    if (first === undefined || (this.strategy === 'drop' && valid > 0)) return;
    const others = rows.slice(1, 6).map(({ place }) => place.replace(/: .*/s, ''));
    const all = `${this.count >= enough ? 'at least ' : ''}${counted(this.count, 'row')} of ${this.name} cannot be trained`;
    const more = others.length === 0 ? '' : `; ${all}, also ${others.join(', ')}${this.count > others.length + 1 ? ', …' : ''}`;
    const drop = this.strategy === 'raise' && valid > 0 ? ', or leave such rows out with invalid_rows_strategy: drop' : '';
    throw new LowrankError(first.problem + more, {
      place: first.place,
      expected: first.expected,
      mend: `${first.mend ?? 'correct the row'}${drop}`,
    });
  }
}

/** The line that a row stands in: those that fail in being labelled come behind others of their part. */
const lineOf = ({ place }: InvalidRow) => Number(/:(\d+)(?=:|$)/.exec(place)?.[1] ?? 0);
