/**
 * Writes native/kernels/ops.generated.h from the op table: the ops' numbers, the places of their operands and their attributes by name; and
 * the places in a 4-bit weight's constants. test/core/ops-table.test.ts fails where the file is another: call `node
 * build/tools/generate-ops.js` after a change of the table.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { type AttributeTypes, activationKinds, opDeclarations, operand } from '#lowrank/core/ops.table.js';
import { fourBitConstantsSize, fourBitLayout } from '#lowrank/quant/four-bit.js';

const snake = (name: string): string => name.replace(/(?<!^)[A-Z]/g, (letter) => `_${letter}`).toLowerCase();
const pascal = (name: string): string => name[0].toUpperCase() + name.slice(1);

/** What an attribute is in C++, and how it is made of the number that a command has for it. */
const attributeTypes: Readonly<Record<keyof AttributeTypes, { type: string; of(number: string): string }>> = {
  number: { type: 'double', of: (number) => number },
  integer: { type: 'int64_t', of: (number) => `static_cast<int64_t>(${number})` },
  flag: { type: 'bool', of: (number) => `${number} != 0` },
  seed: { type: 'uint32_t', of: (number) => `static_cast<uint32_t>(${number})` },
  activation: { type: 'Activation', of: (number) => `static_cast<Activation>(static_cast<int>(${number}))` },
};

/** `struct Attributes` of an op, or nothing where it has none. */
function attributesStruct(attributes: Readonly<Record<string, keyof AttributeTypes>>): string[] {
  const fields = Object.entries(attributes);
  if (fields.length === 0) return [];
  return [
    'struct Attributes {',
    ...fields.map(([name, kind]) => `  ${attributeTypes[kind].type} ${snake(name)};`),
    '  explicit Attributes(const double* numbers)',
    ...fields.map(
      ([name, kind], i) =>
        `      ${i === 0 ? ':' : ' '} ${snake(name)}(${attributeTypes[kind].of(`numbers[${i}]`)})${i + 1 < fields.length ? ',' : ' {}'}`,
    ),
    '};',
  ];
}

/** The text of the header. */
export function opsHeader(): string {
  const entries = Object.entries(opDeclarations);
  const lines = [
    '// Written by tools/generate-ops.ts from src/core/ops.table.ts. Do not edit.',
    '#pragma once',
    '#include <cstdint>',
    '',
    'namespace lowrank {',
    '',
  ];
  lines.push('enum class Op : int {', ...entries.map(([name]) => `  ${snake(name)},`), '  count', '};', '');
  lines.push(`enum class Activation : int { ${activationKinds.join(', ')} };`, '');
  for (const [name, { inputs, outputs, attributes }] of entries) {
    const places = (prefix: string, names: readonly string[]) => names.map((declared) => prefix + snake(operand(declared).name)).join(', ');
    lines.push(`namespace ${snake(name)}_op {`);
    if (inputs.length > 0) lines.push(`enum In { ${places('i_', inputs)} };`);
    if (outputs.length > 0) lines.push(`enum Out { ${places('o_', outputs)} };`);
    lines.push(...attributesStruct(attributes), `}  // namespace ${snake(name)}_op`);
  }
  lines.push('', 'struct OpInfo {', '  const char* name;', '  int inputs, outputs, attributes;', '};');
  lines.push('inline constexpr OpInfo op_infos[] = {');
  for (const [name, { inputs, outputs, attributes }] of entries)
    lines.push(`    {"${name}", ${inputs.length}, ${outputs.length}, ${Object.keys(attributes).length}},`);
  lines.push('};', '', '// Places in the constants of a 4-bit weight, and how many numbers they are at least.', 'namespace four_bit {');
  for (const [name, place] of Object.entries(fourBitLayout)) lines.push(`inline constexpr int64_t k${pascal(name)} = ${place};`);
  lines.push(
    `inline constexpr int64_t kSize = ${fourBitConstantsSize()}, kNestedSize = ${fourBitConstantsSize(0)};`,
    '}  // namespace four_bit',
  );
  lines.push('', '}  // namespace lowrank', '');
  return lines.join('\n');
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const path = 'native/kernels/ops.generated.h';
  let before = '';
  try {
    before = readFileSync(path, 'utf8');
  } catch {}
  if (before !== opsHeader()) writeFileSync(path, opsHeader());
}
