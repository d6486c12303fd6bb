/**
 * `npm run bench -- SUITE … [--json] [--only TEXT]`: measures ours beside the peer, taking turns on this machine, and writes
 * bench/results/SUITE.json and the README's table. Exits 1 where a figure falls short of its goal. Suites: gemm, lora, memory, length, qlora,
 * scale, plan, quality.
 */
import { parseArgs } from 'node:util';
import { preparePeers } from '../tools/golden/venv.js';
import { gemmSuite } from './gemm.js';
import { lengthSuite } from './length.js';
import { loraSuites } from './lora.js';
import { machine, measurePeaks, writeResults } from './machine.js';
import { planSuite } from './plan.js';
import { qloraSuite } from './qlora.js';
import { qualitySuite } from './quality.js';
import { updateReadme } from './readme.js';
import { scaleSuite } from './scale.js';
import type { Bench, Row } from './suite.js';

const suites = ['gemm', 'lora', 'memory', 'length', 'qlora', 'scale', 'plan', 'quality'];
const usage = `usage: npm run bench -- SUITE … [--json] [--only TEXT]
  SUITE         ${suites.join(', ')}
  --json        print one JSON value on standard output
  --only TEXT   only cases whose names contain TEXT; the results file is left as it is`;

function readArguments(): { wanted: string[]; json: boolean; only?: string } {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { json: { type: 'boolean', default: false }, only: { type: 'string' }, help: { type: 'boolean', short: 'h' } },
  });
  const unknown = positionals.filter((name) => !suites.includes(name));
  if (values.help || positionals.length === 0 || unknown.length > 0) {
    if (unknown.length > 0) console.error(`there is no suite "${unknown[0]}"`);
    console.error(usage);
    process.exit(values.help ? 0 : 1);
  }
  return { wanted: positionals, json: values.json, only: values.only };
}

function print(suite: string, rows: readonly Row[]): void {
  const columns = ['case', 'ours', 'peer', 'speed', 'memory', 'share', ''];
  const main = (figures: Row['peer'] = {}) =>
    figures.tokens_per_second ?? figures.examples_per_second ?? figures.gflops ?? figures.peak_rss_gb ?? '–';
  const against = (value: number | undefined, goal: number | undefined, sign: string) =>
    value === undefined ? '' : `${value}${goal === undefined ? '' : ` ${sign} ${goal}`}`;
  const lines = rows.map(({ case: name, ours, peer, speed, memory, goal, ok }) => [
    name,
    String(main(ours)),
    String(main(peer)),
    against(speed, goal.speed, '≥'),
    against(memory, goal.memory, '≤'),
    against(ours.share, goal.share, '≥'),
    ok ? 'ok' : 'SHORT',
  ]);
  const widths = columns.map((head, i) => Math.max(head.length, ...lines.map((line) => line[i].length)));
  const text = (line: string[]) => line.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]) : cell.padStart(widths[i]))).join('  ');
  console.error(`\n${suite}\n${[columns, ...lines].map(text).join('\n')}`);
}

const { wanted, json, only } = readArguments();
const { python } = preparePeers();
const peaks = await measurePeaks();
const bench: Bench = { python, peaks, only, note: (text) => console.error(text) };
bench.note(`this machine's peak: ${peaks.bf16.toFixed(0)} GFLOP/s in bf16, ${peaks.f32.toFixed(0)} in f32`);
const described = {
  ...machine(),
  instruction_set: peaks.instructionSet,
  peak_gflops_bf16: Math.round(peaks.bf16),
  peak_gflops_f32: Math.round(peaks.f32),
};
const results: Record<string, Row[]> = {};
if (wanted.includes('gemm')) results.gemm = await gemmSuite(bench);
if (wanted.includes('lora') || wanted.includes('memory')) {
  const { lora, memory } = await loraSuites(bench, { lora: wanted.includes('lora') });
  if (wanted.includes('lora')) results.lora = lora;
  if (wanted.includes('memory')) results.memory = memory;
}
if (wanted.includes('length')) results.length = await lengthSuite(bench);
if (wanted.includes('qlora')) results.qlora = await qloraSuite(bench);
if (wanted.includes('scale')) results.scale = await scaleSuite(bench);
if (wanted.includes('plan')) results.plan = await planSuite(bench);
if (wanted.includes('quality')) results.quality = await qualitySuite(bench);
for (const [suite, rows] of Object.entries(results)) {
  print(suite, rows);
  if (only === undefined) writeResults(suite, { machine: described, rows });
}
updateReadme();
const rows = Object.values(results).flat();
if (json) console.log(JSON.stringify({ machine: described, rows }));
if (rows.some(({ ok }) => !ok)) process.exitCode = 1;
