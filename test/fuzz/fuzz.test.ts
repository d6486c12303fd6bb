import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterAll, expect, test } from 'vitest';

// What is compiled: the fuzzer runs the built package, in processes of its own.
const built = (name: string) => pathToFileURL(resolve(`build/tools/fuzz/${name}.js`)).href;
const { targets } = (await import(built('targets'))) as typeof import('../../tools/fuzz/targets.js');
const { Session } = (await import(built('session'))) as typeof import('../../tools/fuzz/session.js');
const { fuzz } = (await import(built('watch'))) as typeof import('../../tools/fuzz/watch.js');

const failures = mkdtempSync(join(tmpdir(), 'lowrank-fuzz-test-'));
afterAll(() => rmSync(failures, { recursive: true, force: true }));

/** Inputs of each kind, about a second of them. */
const inputs = { safetensors: 200, gguf: 80, model: 40, adapter: 120, tokenizer: 60, template: 150, rows: 150, recipe: 120 };

test('every kind of file is fuzzed here', () => {
  expect(Object.keys(inputs).sort()).toEqual(Object.keys(targets).sort());
});

test.each(Object.entries(inputs))('changed files of the kind %s are read or refused', async (kind, count) => {
  const session = new Session(targets[kind], 7, { coverage: false });
  let parsed = 0;
  for (let index = 0; index < count; index++) {
    const files = session.input(index);
    const ending = await session.run(files);
    expect(ending.raw, `input ${index}`).toBeUndefined();
    if (ending.parsed) parsed++;
  }
  // Otherwise nothing but the parser's first lines would be tried.
  expect(parsed / count).toBeGreaterThan(0.05);
});

const planted = (kind: string) =>
  fuzz({ kind, seed: 1, inputs: 300, failures, module: resolve('test/fuzz/planted.mjs'), patience: 3, most: 1 });

test('of a reader without bugs nothing is said, and how many inputs it understood', async () => {
  const report = await planted('sound');
  expect(report).toMatchObject({ inputs: 300, failures: [] });
  expect(report.parsed).toBeGreaterThan(100);
  expect(report.parsed).toBeLessThan(300);
});

test.each([
  ['raw', 'raw exception', /^TypeError: Cannot read properties of undefined[\s\S]*planted\.mjs/],
  ['hang', 'hang', /no end within 3 s of processor time/],
  ['memory', 'memory', /MB more|does not fit/],
  ['death', 'death', /killed by SIGSEGV/],
])(
  'a planted bug is found: %s',
  async (kind, what, detail) => {
    const report = await planted(kind);
    expect(report.inputs).toBeGreaterThan(0);
    expect(report.failures[0]).toMatchObject({ what, detail: expect.stringMatching(detail) });
    // The input that shows it is kept.
    expect(existsSync(report.failures[0].input)).toBe(true);
    expect(readFileSync(join(report.failures[0].input, 'a.txt'), 'utf8')).toMatch(/^h.*z$/);
  },
  300_000,
);
