import type { PackedTokens } from '../nn/context.js';

/** A packed batch with the token to be predicted at each position, −100 where none is; what `data/batches.ts` makes. */
export interface LabelledTokens extends PackedTokens {
  /** [T] */
  readonly labels: Int32Array;
  /** [S]: the example of the batch that each sequence belongs to, from 0 on; where it is absent each is one of its own. */
  readonly exampleOf?: Int32Array;
}

/** The positions at which a token is to be predicted, ascending. */
export function supervisedRows(labels: Int32Array): Int32Array {
  const rows: number[] = [];
  labels.forEach((label, row) => {
    if (label >= 0) rows.push(row);
  });
  return Int32Array.from(rows);
}
