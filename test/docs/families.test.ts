import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { allFamilies } from '../../src/models/families.js';

/** The README's table of families: what the registry holds, a row each. */
function table(): string {
  const rows = allFamilies().map(
    ({ models, modelType, gguf }) => `| ${models} | \`${modelType}\` | ${gguf ? `\`${gguf.architecture}\`` : '–'} |`,
  );
  return ['| models | `model_type` | GGUF |', '| --- | --- | --- |', ...rows].join('\n');
}

test('the README lists the families that can be loaded', () => {
  expect(readFileSync('README.md', 'utf8')).toContain(table());
});
