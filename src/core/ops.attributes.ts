import { LowrankError } from '../util/errors.js';
import { type AttributeTypes, activationKinds, type OpName, opDeclarations } from './ops.table.js';

interface Kind {
  /** For errors. */
  readonly expected: string;
  fits(value: unknown): boolean;
}

const kinds: Readonly<Record<keyof AttributeTypes, Kind>> = {
  number: { expected: 'a number', fits: (value) => typeof value === 'number' },
  integer: { expected: 'an integer', fits: (value) => Number.isSafeInteger(value) },
  flag: { expected: 'true or false', fits: (value) => typeof value === 'boolean' },
  seed: { expected: 'an integer from 0 to 2³² − 1', fits: (value) => typeof value === 'number' && value >>> 0 === value },
  activation: { expected: activationKinds.join(', '), fits: (value) => (activationKinds as readonly unknown[]).includes(value) },
};

const declared = new Map(
  Object.entries(opDeclarations).map(([op, { attributes }]) => [
    op,
    Object.entries(attributes).map(([name, kind]) => [name, kinds[kind]] as const),
  ]),
);

/** Throws where an attribute of a call is missing or is not of its kind. Every backend asks this before it runs an op. */
export function checkAttributes(op: OpName, attributes: Readonly<Record<string, unknown>>): void {
  for (const [name, { expected, fits }] of declared.get(op)!) {
    const value = attributes[name];
    if (!fits(value)) throw new LowrankError(`attribute "${name}" is ${value === undefined ? 'missing' : value}`, { place: op, expected });
  }
}
