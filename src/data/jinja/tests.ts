import { isLower, isUpper } from './methods.js';
import { arithmetic, double, isFloat } from './numbers.js';
import { contains, isIterable, lengthOf } from './operations.js';
import { str } from './print.js';
import {
  asNumber,
  asText,
  Dict,
  defined,
  equal,
  isInt,
  Markup,
  ordered,
  PyObject,
  typeName,
  Undefined,
  type Value,
  View,
} from './values.js';

/** Jinja's tests: `value is name`, `value is name(argument)`. */
export type Test = readonly [parameters: readonly string[], run: (value: Value, argument: Value) => boolean];

const one = (run: (value: Value) => boolean): Test => [[], run];
const two = (run: (value: Value, other: Value) => boolean): Test => [['other'], run];
const order = (operator: string) => two((value, other) => ordered(operator, value, other));

function remainder(value: Value, divisor: Value): number {
  const [a, b] = [asNumber(defined(value)), asNumber(defined(divisor))];
  if (a === undefined || b === undefined)
    throw new Error(`unsupported operand type(s) for %: '${typeName(value)}' and '${typeName(divisor)}'`);
  return double(arithmetic('%', a, b));
}

/** `a is b` of Python, as far as a template can tell: what is not an object is the same where it is equal and of one type. */
function same(a: Value, b: Value): boolean {
  if (a === b) return true;
  return a instanceof Undefined || b instanceof Undefined ? false : typeof a === 'bigint' && a === b;
}

export const tests: Record<string, Test> = {
  odd: one((value) => remainder(value, 2) === 1),
  even: one((value) => remainder(value, 2) === 0),
  divisibleby: [['num'], (value, divisor) => remainder(value, divisor) === 0],
  defined: one((value) => !(value instanceof Undefined)),
  undefined: one((value) => value instanceof Undefined),
  none: one((value) => value === null),
  boolean: one((value) => typeof value === 'boolean'),
  false: one((value) => value === false),
  true: one((value) => value === true),
  integer: one(isInt),
  float: one(isFloat),
  lower: one((value) => isLower(str(value))),
  upper: one((value) => isUpper(str(value))),
  string: one((value) => asText(value) !== undefined),
  mapping: one((value) => value instanceof Dict),
  number: one((value) => asNumber(value) !== undefined),
  sequence: one((value) => lengthOf(value) !== undefined && !(value instanceof View)),
  iterable: one(isIterable),
  callable: one((value) => value instanceof Undefined || (value instanceof PyObject && value.callable)),
  sameas: two(same),
  escaped: one((value) => value instanceof Markup),
  in: [['seq'], (value, container) => contains(container, value)],
};
for (const name of ['eq', 'equalto', '==']) tests[name] = two(equal);
for (const name of ['ne', '!=']) tests[name] = two((value, other) => !equal(value, other));
for (const name of ['gt', 'greaterthan', '>']) tests[name] = order('>');
for (const name of ['ge', '>=']) tests[name] = order('>=');
for (const name of ['lt', 'lessthan', '<']) tests[name] = order('<');
for (const name of ['le', '<=']) tests[name] = order('<=');
