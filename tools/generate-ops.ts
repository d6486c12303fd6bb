/**
 * Writes native/kernels/ops.generated.h from the op table: the ops' numbers and the places of their operands and attributes.
 * Run by `npm run prepare`'s check in test/core/ops-table.test.ts; call `node build/tools/generate-ops.js` after changing the table.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { type OpDeclaration, operand, opTable } from '#lowrank/core/ops.table.js';

const snake = (name: string): string => name.replace(/(?<!^)[A-Z]/g, (letter) => `_${letter}`).toLowerCase();

export function opsHeader(): string {
  const entries: [string, OpDeclaration][] = Object.entries(opTable);
  const lines = [
    '// Written by tools/generate-ops.ts from src/core/ops.table.ts. Do not edit.',
    '#pragma once',
    '',
    'namespace lowrank {',
    '',
  ];
  lines.push('enum class Op : int {', ...entries.map(([name]) => `  ${snake(name)},`), '  count', '};', '');
  for (const [name, { inputs, outputs, attributes }] of entries) {
    lines.push(`namespace ${snake(name)}_op {`);
    const groups: [string, readonly string[]][] = [
      ['In', inputs],
      ['Out', outputs],
      ['Attribute', attributes],
    ];
    for (const [kind, names] of groups) {
      const places = names
        .map((declared) => snake(operand(declared).name))
        .map((place) => (kind === 'Attribute' ? `a_${place}` : kind === 'In' ? `i_${place}` : `o_${place}`));
      if (places.length > 0) lines.push(`enum ${kind} { ${places.join(', ')} };`);
    }
    lines.push(`}  // namespace ${snake(name)}_op`);
  }
  lines.push('', 'struct OpInfo {', '  const char* name;', '  int inputs, outputs, attributes;', '};');
  lines.push('inline constexpr OpInfo op_infos[] = {');
  for (const [name, { inputs, outputs, attributes }] of entries)
    lines.push(`    {"${name}", ${inputs.length}, ${outputs.length}, ${attributes.length}},`);
  lines.push('};', '', '}  // namespace lowrank', '');
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
