import { expect, test } from 'vitest';
import { labelled } from '../../src/cli/console.js';

test('a labelled line goes on below its text, within the width', () => {
  const text = 'train.jsonl: 400 rows, 29,386 tokens, 13,789 supervised, longest 99, chat_template';
  const lines = labelled('data', text, 80).split('\n');
  expect(lines).toEqual(['data       train.jsonl: 400 rows, 29,386 tokens, 13,789 supervised, longest 99,', '           chat_template']);
  expect(labelled('plan', '2 GB', 80)).toBe('plan       2 GB');
});
