import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { dtypeCodes } from '../../src/core/dtype.js';
import { type AttributeTypes, activationKinds, opDeclarations, operand, opTable } from '../../src/core/ops.table.js';
import { opsHeader } from '../../tools/generate-ops.js';

const ops = Object.entries(opDeclarations);
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

test('the addon was given the table as it is', () => {
  expect(header).toBe(opsHeader());
});

test('the addon numbers the ops as the table does', () => {
  expect(members(header, /enum class Op : int \{([^}]*)\}/)).toEqual([...ops.map(([name]) => snake(name)), 'count']);
});

const attributeTypes: Readonly<Record<keyof AttributeTypes, string>> = {
  number: 'double',
  integer: 'int64_t',
  flag: 'bool',
  seed: 'uint32_t',
  activation: 'Activation',
};

test('the addon numbers the kinds of activations as the table does', () => {
  expect(members(header, /enum class Activation : int \{([^}]*)\}/)).toEqual([...activationKinds]);
});

test.each(ops)('the addon has the operands of %s where the table has them', (name, { inputs, outputs, attributes }) => {
  const [, section = ''] = new RegExp(`namespace ${snake(name)}_op \\{([\\s\\S]*?)\\n\\}  //`).exec(header) ?? [];
  const places = (prefix: string, declared: readonly string[]) => declared.map((text) => prefix + snake(operand(text).name));
  expect(members(section, /enum In \{([^}]*)\}/)).toEqual(places('i_', inputs));
  expect(members(section, /enum Out \{([^}]*)\}/)).toEqual(places('o_', outputs));
  const [, fields = ''] = /struct Attributes \{\n([\s\S]*?) {2}explicit/.exec(section) ?? [];
  const declared = Object.entries(attributes).map(([attribute, kind]) => `  ${attributeTypes[kind]} ${snake(attribute)};\n`);
  expect(fields).toBe(declared.join(''));
  // Each is made of the number in its own place.
  const read = [...section.matchAll(/(\w+)\([^\n]*numbers\[(\d+)\]/g)].map(([, attribute, place]) => [attribute, Number(place)]);
  expect(read).toEqual(Object.keys(attributes).map((attribute, i) => [snake(attribute), i]));
  expect(header).toContain(`{"${name}", ${inputs.length}, ${outputs.length}, ${declared.length}},`);
});

test('a command has room for every op', () => {
  const addon = readFileSync('native/napi/addon.cpp', 'utf8');
  const room = (constant: string) => Number(new RegExp(`${constant} = (\\d+)`).exec(addon)?.[1]);
  for (const [name, { inputs, outputs, attributes }] of ops) {
    expect(inputs.length + outputs.length, name).toBeLessThanOrEqual(room('kOperands'));
    expect(Object.keys(attributes).length, name).toBeLessThanOrEqual(room('kAttributes'));
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

test('memory is shared between operands that the op has', () => {
  for (const [name, { inputs, outputs, inPlace = {} }] of ops) {
    const names = (declared: readonly string[]) => declared.map((text) => operand(text).name);
    expect(names(outputs), name).toEqual(expect.arrayContaining(Object.keys(inPlace)));
    expect(names(inputs), name).toEqual(expect.arrayContaining(Object.values(inPlace).flat()));
  }
});

test('an op is optional by itself, in a group, or not at all', () => {
  for (const [name, { fused, group }] of ops) expect(Boolean(fused && group), name).toBe(false);
  expect(Object.keys(opTable).filter((name) => opDeclarations[name as keyof typeof opTable].group === 'quantizing')).toEqual([
    'quantize4bit',
    'quantize8bit',
    'quantizeRows',
  ]);
});
