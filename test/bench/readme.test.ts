import { cpSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { readmeTexts, setsInOrder, tables } from '../../bench/readme.js';

const folder = mkdtempSync(join(tmpdir(), 'lowrank-readme-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const files = readdirSync('bench/results');
const setsOf = (suite: string) => setsInOrder.filter((set) => files.includes(`${suite}.${set}.json`));

test('the README shows the figures that were measured', () => {
  const { before, after } = readmeTexts('.');
  expect(before).toBe(after);
  for (const suite of Object.keys(tables)) {
    expect(before).toContain(`<!-- bench:${suite} -->\n${setsOf(suite).length > 0 ? '|' : '<!-- /bench -->'}`);
  }
});

test('every results file of a suite belongs to a set that the README knows', () => {
  const sets = files.filter((name) => name !== 'event-loop.json').map((name) => name.split('.')[1]);
  expect(sets.length).toBeGreaterThan(0);
  for (const set of sets) expect(setsInOrder).toContain(set);
});

/** A project with these results of one suite, and the table that its README should get. */
function tableOf(suite: keyof typeof tables, results: Record<string, object>): string[] {
  const project = mkdtempSync(join(folder, 'project-'));
  cpSync('README.md', join(project, 'README.md'));
  cpSync('bench/results', join(project, 'bench/results'), { recursive: true });
  for (const set of setsInOrder) rmSync(join(project, 'bench/results', `${suite}.${set}.json`), { force: true });
  for (const [set, value] of Object.entries(results))
    writeFileSync(join(project, 'bench/results', `${suite}.${set}.json`), JSON.stringify(value));
  const { after } = readmeTexts(project);
  const [, text] = new RegExp(`<!-- bench:${suite} -->\\n([\\s\\S]*?)<!-- /bench -->`).exec(after) ?? [];
  return (text ?? '').split('\n');
}

const machine = (instruction_set: string, processor: string) => ({
  date: '2026-01-02',
  processor,
  threads: 2,
  instruction_set,
  peak_gflops_bf16: 20,
  peak_gflops_f32: 10,
});
const row = (name: string, ours: object, peer: object, more: object = {}) => ({
  case: name,
  ours,
  peer,
  speed: 2,
  goal: {},
  ok: true,
  ...more,
});

test('a set that this machine lacks keeps its last figures, and AVX2 stands first', () => {
  const figures = (rate: number) => ({ tokens_per_second: rate, peak_rss_gb: 1 });
  const lines = tableOf('lora', {
    amx: { machine: machine('AMX', 'Xeon'), rows: [row('135M bf16: PEFT', figures(100), figures(50))] },
    avx2: {
      machine: machine('AVX2', 'Ryzen'),
      rows: [row('135M: PEFT', { ...figures(40), fp32_tokens_per_second: 30 }, figures(20), { dtypes: { ours: 'bf16', peer: 'fp32' } })],
    },
  });
  expect(lines.slice(2, 6)).toEqual([
    '| **AVX2** |  |  |  |  |',
    '| 135M | bf16 40 tokens/s (fp32 30) | fp32 20 tokens/s (2 ×) | – | 1 GB, PEFT 1 |',
    '| **AMX** |  |  |  |  |',
    '| 135M bf16 | 100 tokens/s | 50 tokens/s (2 ×) | – | 1 GB, PEFT 1 |',
  ]);
  expect(lines.join('\n')).toContain('AVX2: 2026-01-02, Ryzen, 2 threads, 20 GFLOP/s');
  expect(lines.join('\n')).toContain('AMX: 2026-01-02, Xeon, 2 threads, 20 GFLOP/s');
});

test('decode has a line for each shape, with or without llama.cpp', () => {
  const ours = { tokens_per_second: 80, share: 0.666, bandwidth_gbs: 30 };
  const rows = [
    row('135M bf16: llama.cpp', ours, { tokens_per_second: 40, build: 'haswell' }),
    row('135M NF4: our bf16', { tokens_per_second: 120 }, { tokens_per_second: 80 }, { speed: 1.5 }),
  ];
  const alone = [{ ...rows[0], peer: undefined, speed: undefined }, rows[1]];
  const lines = tableOf('decode', {
    avx2: { machine: machine('AVX2', 'Ryzen'), rows },
    generic: { machine: machine('SSE2', 'Ryzen'), rows: alone },
  });
  expect(lines[3]).toBe('| 135M | 80 tokens/s | 67 % of 30 GB/s | 40 tokens/s (2 ×; haswell) | 120 tokens/s (1.5 ×) |');
  expect(lines[5]).toBe('| 135M | 80 tokens/s | 67 % of 30 GB/s | – | 120 tokens/s (1.5 ×) |');
});
