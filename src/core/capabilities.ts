import { debug } from '../util/debug.js';
import { LowrankError } from '../util/errors.js';
import type { Backend } from './backend.js';
import { type OpName, opDeclarations, opTable } from './ops.table.js';

/** Ops that have a fallback, by the table. */
export type FusedOp = { [K in OpName]: (typeof opTable)[K] extends { fused: true } ? K : never }[OpName];

const ops = Object.keys(opTable) as OpName[];

/** The fused ops that a backend lacks: what `src/ops` composes of others in their place, which is slower. */
export function composedOps(backend: Backend): OpName[] {
  return ops.filter((op) => opDeclarations[op].fused && !backend.supports(op));
}

const told = new WeakMap<Backend, Set<OpName>>();

/** Whether the backend has a fused op. Where it has not, `DEBUG=1` says so, once for each op. */
export function fuses(backend: Backend, op: FusedOp): boolean {
  if (backend.supports(op)) return true;
  const known = told.get(backend) ?? new Set();
  if (!known.has(op)) debug(1, () => `${backend.name} has no ${op}: it is composed of other ops, which is slower`);
  told.set(backend, known.add(op));
  return false;
}

/**
 * Throws where a backend lacks one of the ops, of groups, that `what` needs; `mend` says what serves instead. To be asked before the work
 * begins, so that a run does not end in the middle.
 */
export function requireOps(backend: Backend, needed: readonly OpName[], what: string, mend: string): void {
  const missing = needed.filter((op) => !backend.supports(op));
  if (missing.length === 0) return;
  const groups = new Set(missing.map((op) => `"${opDeclarations[op].group}"`));
  const problem = `the backend ${backend.name} lacks ops of ${[...groups].join(' and ')}: ${missing.join(', ')}`;
  throw new LowrankError(problem, { place: what, mend });
}
