import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ReferenceBackend } from '../../src/backends/reference/index.js';
import type { Backend } from '../../src/core/backend.js';
import { type OpName, opDeclarations, opTable } from '../../src/core/ops.table.js';
import { type Case, inPlaceVariants, sharable } from './case.js';
import { cases } from './cases/index.js';
import { testable } from './devices.js';
import { difference, mismatch, type Results, run, unrounded } from './run.js';

const ops = Object.keys(opTable) as OpName[];
const casesOf = (op: OpName) => cases.filter((entry) => entry.op === op);

const reference = new ReferenceBackend();
const wanted = new Map<Case, Results>();
async function want(entry: Case): Promise<Results> {
  const known = wanted.get(entry) ?? (await run(reference, unrounded(entry)));
  wanted.set(entry, known);
  return known;
}

test.each(ops)('%s has cases', (op) => {
  expect(casesOf(op)).not.toEqual([]);
});

const inPlace = ops.flatMap((op) =>
  Object.entries(opDeclarations[op].inPlace ?? {}).flatMap(([output, inputs]) => inputs.map((input) => [op, output, input] as const)),
);

test.each(inPlace)('%s has cases with %s on %s', (op, output, input) => {
  const found = casesOf(op).filter((entry) => sharable(entry).some((pair) => pair[0] === output && pair[1] === input));
  const dtypes = new Set(
    found.filter(({ outputs }) => Math.min(...outputs[output]!.shape) > 0).map(({ outputs }) => outputs[output]!.dtype),
  );
  expect([...dtypes].sort()).toEqual(/softmax|crossEntropy/.test(op) ? ['f32'] : ['bf16', 'f32']);
});

describe.each(testable())('$name', ({ open, tolerance, every = 1 }) => {
  let backend: Backend;
  beforeAll(async () => {
    backend = await open();
  });
  afterAll(() => backend.close());

  test.for(ops)('%s equals the reference, the same bits each time', async (op, { skip }) => {
    if (!backend.supports(op)) skip('the backend lacks this op');
    const fresh = await open();
    const problems: (string | undefined)[] = [];
    for (const entry of casesOf(op).filter((_, i) => i % every === 0)) {
      const first = await run(backend, entry);
      problems.push(mismatch(entry, first, await want(entry), tolerance));
      problems.push(difference(entry, first, await run(backend, entry)));
      problems.push(difference(entry, first, await run(fresh, entry)));
      for (const variant of inPlaceVariants(entry))
        problems.push(mismatch(variant, await run(backend, variant), await want(entry), tolerance));
    }
    await fresh.close();
    expect(problems.filter((problem) => problem !== undefined).join('\n')).toBe('');
  });

  test('gives all memory back', () => {
    const { current, currentOf } = backend.memory();
    expect(current).toBe(currentOf.workspace);
  });
});
