import { expect, test } from 'vitest';
import { readmeTexts } from '../../bench/readme.js';

test('the README shows the figures that were measured', () => {
  const { before, after } = readmeTexts('.');
  expect(before).toBe(after);
  for (const suite of ['lora', 'qlora', 'scale']) expect(before).toContain(`<!-- bench:${suite} -->\n|`);
});
