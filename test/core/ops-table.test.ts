import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { dtypeCodes } from '../../src/core/dtype.js';
import { type OpDeclaration, operand, opTable } from '../../src/core/ops.table.js';

const ops = Object.entries<OpDeclaration>(opTable);
const header = readFileSync('native/kernels/ops.generated.h', 'utf8');
const snake = (name: string) => name.replace(/(?<!^)[A-Z]/g, (letter) => `_${letter}`).toLowerCase();

/** The names between the braces of the first enum that the pattern finds. */
function members(source: string, pattern: RegExp): string[] {
  const [, body = ''] = pattern.exec(source) ?? [];
  return body
    .split(',')
    .map((name) => name.trim())
    .filter((name) => name !== '');
}

test('the addon numbers the ops as the table does', () => {
  expect(members(header, /enum class Op : int \{([^}]*)\}/)).toEqual([...ops.map(([name]) => snake(name)), 'count']);
});

test.each(ops)('the addon has the operands of %s where the table has them', (name, { inputs, outputs, attributes }) => {
  const [, section = ''] = new RegExp(`namespace ${snake(name)}_op \\{([\\s\\S]*?)\\n\\}  //`).exec(header) ?? [];
  const places = (prefix: string, declared: readonly string[]) => declared.map((text) => prefix + snake(operand(text).name));
  expect(members(section, /enum In \{([^}]*)\}/)).toEqual(places('i_', inputs));
  expect(members(section, /enum Out \{([^}]*)\}/)).toEqual(places('o_', outputs));
  expect(members(section, /enum Attribute \{([^}]*)\}/)).toEqual(places('a_', attributes));
  expect(header).toContain(`{"${name}", ${inputs.length}, ${outputs.length}, ${attributes.length}},`);
});

test('a command has room for every op', () => {
  const addon = readFileSync('native/napi/addon.cpp', 'utf8');
  const room = (constant: string) => Number(new RegExp(`${constant} = (\\d+)`).exec(addon)?.[1]);
  for (const [name, { inputs, outputs, attributes }] of ops) {
    expect(inputs.length + outputs.length, name).toBeLessThanOrEqual(room('kOperands'));
    expect(attributes.length, name).toBeLessThanOrEqual(room('kAttributes'));
  }
});

test('the addon numbers the dtypes as dtype.ts does', () => {
  const source = readFileSync('native/kernels/tensor.h', 'utf8');
  expect(members(source, /enum class DType : int32_t \{([^}]*)\}/)).toEqual(dtypeCodes);
});

test('operands are named once, and marks are read off their names', () => {
  for (const [name, { inputs, outputs }] of ops) {
    const names = [...inputs, ...outputs].map((declared) => operand(declared).name);
    expect(new Set(names).size, name).toBe(names.length);
    expect(names.join(''), name).toMatch(/^\w*$/);
    expect(
      inputs.some((declared) => operand(declared).accumulates),
      name,
    ).toBe(false);
  }
  expect(operand('dweight?+')).toEqual({ name: 'dweight', optional: true, accumulates: true });
  expect(operand('out+')).toEqual({ name: 'out', optional: false, accumulates: true });
  expect(operand('x')).toEqual({ name: 'x', optional: false, accumulates: false });
});
