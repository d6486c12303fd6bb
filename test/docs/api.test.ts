import { spawnSync } from 'node:child_process';
import { stripVTControlCharacters } from 'node:util';
import { expect, test } from 'vitest';

test('every export has a comment, and its links lead somewhere', () => {
  const { status, stdout, stderr } = spawnSync(process.execPath, ['node_modules/typedoc/bin/typedoc', '--emit', 'none'], {
    encoding: 'utf8',
  });
  expect([status, stripVTControlCharacters(stdout + stderr)]).toEqual([0, '']);
});
