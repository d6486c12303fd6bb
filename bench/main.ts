/**
 * `npm run bench -- SUITE … [--isa SET] [--json] [--only TEXT]`: measures ours beside the peer with the same instructions, taking turns on
 * this machine, and writes bench/results/SUITE.SET.json and the README's tables. Exits 1 where a figure falls short of its goal. Suites:
 * gemm, lora, memory, length, qlora, decode, scale, plan, quality, data.
 */
import { parseArgs } from 'node:util';
import { cpuInstructionSets } from '#lowrank/backends/cpu/index.js';
import { messageOf } from '#lowrank/util/errors.js';
import { preparePeers } from '../tools/golden/venv.js';
import { dataSuite } from './data.js';
import { decodeSuite } from './decode.js';
import { gemmSuite } from './gemm.js';
import { holdTo } from './instructions.js';
import { lengthSuite } from './length.js';
import { loraSuites } from './lora.js';
import { machine, measurePeaks, writeResults } from './machine.js';
import { planSuite } from './plan.js';
import { qloraSuite } from './qlora.js';
import { qualitySuite } from './quality.js';
import { updateReadme } from './readme.js';
import { scaleSuite } from './scale.js';
import type { Bench, Row } from './suite.js';

const suites = ['gemm', 'lora', 'memory', 'length', 'qlora', 'decode', 'scale', 'plan', 'quality', 'data'];
const usage = () => `usage: npm run bench -- SUITE … [--isa SET] [--json] [--only TEXT]
  SUITE         ${suites.join(', ')}
  --isa SET     the instruction set of both sides: ${cpuInstructionSets().join(', ')} on this machine (default: the last)
  --json        print one JSON value on standard output
  --only TEXT   only cases whose names contain TEXT; the results file is left as it is`;

function readArguments(): { wanted: string[]; isa?: string; json: boolean; only?: string } {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      isa: { type: 'string' },
      json: { type: 'boolean', default: false },
      only: { type: 'string' },
      help: { type: 'boolean', short: 'h' },
    },
  });
  if (values.help) {
    console.log(usage());
    process.exit(0);
  }
  const unknown = positionals.find((name) => !suites.includes(name));
  if (unknown !== undefined) throw new Error(`there is no suite "${unknown}"`);
  if (positionals.length === 0) throw new Error('name a suite');
  return { wanted: positionals, isa: values.isa, json: values.json, only: values.only };
}

/** The command line and the instruction set that it asks for, or what is wrong with them. */
function begin() {
  try {
    const parameters = readArguments();
    return { ...parameters, instructions: holdTo(parameters.isa) };
  } catch (error) {
    console.error(`${messageOf(error)}\n\n${usage()}`);
    process.exit(1);
  }
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

const { wanted, json, only, instructions } = begin();
const { python } = preparePeers();
const peaks = await measurePeaks();
// Then both are the same loop.
if (!instructions.bf16) peaks.bf16 = peaks.f32 = Math.max(peaks.bf16, peaks.f32);
const bench: Bench = { python, instructions, peaks, only, note: (text) => console.error(text) };
bench.note(`${peaks.instructionSet}, this machine's peak: ${peaks.bf16.toFixed(0)} GFLOP/s in bf16, ${peaks.f32.toFixed(0)} in f32`);
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
if (wanted.includes('decode')) results.decode = await decodeSuite(bench);
if (wanted.includes('scale')) results.scale = await scaleSuite(bench);
if (wanted.includes('plan')) results.plan = await planSuite(bench);
if (wanted.includes('quality')) results.quality = await qualitySuite(bench);
if (wanted.includes('data')) results.data = await dataSuite(bench);
for (const [suite, rows] of Object.entries(results)) {
  print(suite, rows);
  if (only === undefined) writeResults(`${suite}.${instructions.name}`, { machine: described, rows });
}
updateReadme();
const rows = Object.values(results).flat();
if (json) console.log(JSON.stringify({ machine: described, rows }));
if (rows.some(({ ok }) => !ok)) process.exitCode = 1;
