import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Row, root } from './suite.js';

export interface Results {
  machine: Record<string, string | number>;
  rows: Row[];
}

/** In the README's order: what most readers have first. */
export const setsInOrder = ['avx2', 'avx512', 'avx512bf16', 'amx', 'neon', 'neonbf16', 'generic'];

/** What was measured of a suite, a set each, in order; each with the machine that it was last measured on. */
function resultsOf(folder: string, suite: string): Results[] {
  const paths = setsInOrder.map((set) => join(folder, 'bench/results', `${suite}.${set}.json`));
  return paths.filter((path) => existsSync(path)).map((path) => JSON.parse(readFileSync(path, 'utf8')) as Results);
}

const machineOf = ({ processor, threads }: Results['machine']) => `${processor}, ${threads} threads`;

const rateOf = (figures: Row['peer'] = {}) =>
  figures.examples_per_second === undefined ? `${figures.tokens_per_second} tokens/s` : `${figures.examples_per_second} examples/s`;

/** `135M, 4 × 512` of the rows `135M, 4 × 512: PEFT` and `135M, 4 × 512: PEFT compiled`, with the rows. */
function byCase(rows: readonly Row[]): [string, Row[]][] {
  const names = new Set(rows.map(({ case: name }) => name.slice(0, name.indexOf(':'))));
  return [...names].map((name) => [name, rows.filter((row) => row.case.startsWith(`${name}:`))]);
}

/** A Markdown table with a block of lines for each instruction set, which its first line names where there are several. */
function inBlocks(head: readonly string[], measured: readonly Results[], linesOf: (results: Results) => string[][]): string[] {
  const line = (cells: readonly string[]) => `| ${cells.join(' | ')} |`;
  const blocks = measured.flatMap((results) => {
    const name = [`**${results.machine.instruction_set}**`, ...head.slice(1).map(() => '')];
    return [...(measured.length > 1 ? [name] : []), ...linesOf(results)].map(line);
  });
  return [line(head), line(head.map(() => '---')), ...blocks, ''];
}

/** One line for each set: when and where it was measured, and what else `more` says of it. */
const measuredOn = (measured: readonly Results[], more: (machine: Results['machine']) => string = () => '') =>
  measured.map(({ machine }) => `${machine.instruction_set}: ${machine.date}, ${machineOf(machine)}${more(machine)}`).join('; ');

/** The suite `lora`: ours, and PEFT as it is and compiled. Where the dtypes differ, each side's stands beside it. */
function loraTable(measured: readonly Results[]): string {
  const head = ['LoRA step, r 16 on all linear layers', 'lowrank', 'PEFT', 'PEFT, torch.compile', 'peak memory'];
  const lines = ({ rows }: Results) =>
    byCase(rows).map(([name, [eager, compiled]]) => {
      const { ours, peer, dtypes } = eager;
      const slower = dtypes?.ours === 'bf16' ? 'fp32' : 'bf16';
      const mine = dtypes ? `${dtypes.ours} ${rateOf(ours)} (${slower} ${ours[`${slower}_tokens_per_second`]})` : rateOf(ours);
      const against = (row: Row | undefined) =>
        row ? `${row.dtypes ? `${row.dtypes.peer} ` : ''}${rateOf(row.peer)} (${row.speed} ×)` : '–';
      return [name, mine, against(eager), against(compiled), `${ours.peak_rss_gb} GB, PEFT ${peer?.peak_rss_gb}`];
    });
  const peaks = ({ peak_gflops_bf16, peak_gflops_f32 }: Results['machine']) =>
    `, ${peak_gflops_bf16} GFLOP/s in bf16 and ${peak_gflops_f32} in f32 out of registers alone`;
  return [
    ...inBlocks(head, measured, lines),
    `In one run each, both sides held to the same instructions, taking turns, medians. ${measuredOn(measured, peaks)}. ` +
      'PyTorch 2.13, PEFT 0.21.',
    '`npm run bench -- gemm lora memory length qlora decode` measures yours, `--isa avx2` any set that it has.',
  ].join('\n');
}

/** The suite `qlora`, one line per shape: ours, our own LoRA over 16 bits, and the peer's. */
function qloraTable(measured: readonly Results[]): string {
  const head = ['QLoRA step, NF4 with double quantisation', 'lowrank', 'our LoRA over bf16', 'PEFT + bitsandbytes', 'peak memory'];
  const lines = ({ rows }: Results) =>
    byCase(rows).map(([name, [theirs, own]]) => {
      const peer = `${theirs.dtypes ? `${theirs.dtypes.peer} ` : ''}${rateOf(theirs.peer)} (${theirs.speed} ×)`;
      const memory = `${theirs.ours.peak_rss_gb} GB, PEFT ${theirs.peer?.peak_rss_gb}`;
      return [name, rateOf(theirs.ours), `${rateOf(own.peer)} (${own.speed} ×)`, peer, memory];
    });
  return [...inBlocks(head, measured, lines), `In the same way; ${measuredOn(measured)}; bitsandbytes 0.50.2.`].join('\n');
}

/** The suite `decode`, one line per shape: bf16 beside llama.cpp, and NF4. */
function decodeTable(measured: readonly Results[]): string {
  const head = ['Generation, one answer', 'bf16', 'of the memory’s bandwidth', 'llama.cpp over BF16', 'NF4'];
  const lines = ({ rows }: Results) => {
    const shapes = [...new Set(rows.map(({ case: name }) => name.split(' ')[0]))];
    return shapes.map((shape) => {
      const [plain, nf4] = ['bf16', 'NF4'].map((dtype) => rows.find(({ case: name }) => name.startsWith(`${shape} ${dtype}:`)));
      const llama = plain?.peer ? `${rateOf(plain.peer)} (${plain.speed} ×; ${plain.peer.build})` : '–';
      const share = `${Math.round(100 * (plain?.ours.share ?? 0))} % of ${plain?.ours.bandwidth_gbs} GB/s`;
      return [shape, rateOf(plain?.ours), share, llama, `${rateOf(nf4?.ours)} (${nf4?.speed} ×)`];
    });
  };
  return [
    ...inBlocks(head, measured, lines),
    'Greedily, 64 tokens after 32, the same weights, with the build of llama.cpp’s kernels that ran; ' +
      `${measuredOn(measured)}; node-llama-cpp 3.22.1.`,
  ].join('\n');
}

/** What Dettmers et al. 2023 (QLoRA, figure 6) report for one sequence of 512 tokens, GB. */
const paper: Readonly<Record<string, number>> = { '7B': 6.9, '13B': 11.3, '33B': 24.7, '65B': 45 };

function scaleTable(measured: readonly Results[]): string {
  const head = [
    'QLoRA, r 64 on all linear layers, 1 × 512',
    '4-bit base',
    'peak memory',
    'the paper’s, on a GPU',
    'a step',
    'read from disk',
  ];
  const lines = ({ rows }: Results) =>
    rows.map(({ case: name, ours: { peak_rss_gb: peak, step_seconds: seconds, read_gb: read, quantized_gb: base } }) => {
      const published = paper[name.split(/[ ,]/)[0]];
      return [
        name,
        `${base.toFixed(1)} GB`,
        `${peak.toFixed(1)} GB`,
        `${published} GB`,
        `${seconds.toFixed(0)} s`,
        `${read.toFixed(1)} GB`,
      ];
    });
  const memory = ({ memory_gb }: Results['machine']) => `, ${memory_gb} GB of memory`;
  return [
    ...inBlocks(head, measured, lines),
    `Shapes of Llama with random weights, checkpointed, paged AdamW, one whole step each. ${measuredOn(measured, memory)}.`,
  ].join('\n');
}

export const tables = { lora: loraTable, qlora: qloraTable, decode: decodeTable, scale: scaleTable } as const;

/** The README of the project in `folder` as it is, and as it should be: with the figures of bench/results between its marks. */
export function readmeTexts(folder: string): { before: string; after: string } {
  const before = readFileSync(join(folder, 'README.md'), 'utf8');
  let after = before;
  for (const [suite, write] of Object.entries(tables)) {
    const measured = resultsOf(folder, suite);
    const place = new RegExp(`(<!-- bench:${suite} -->\\n)[\\s\\S]*?(<!-- /bench -->)`);
    const text = measured.length > 0 ? `${write(measured)}\n` : '';
    after = after.replace(place, (_, open, close) => `${open}${text}${close}`);
  }
  return { before, after };
}

/** Puts the figures of bench/results into the README. */
export function updateReadme(): void {
  const { before, after } = readmeTexts(root);
  if (after !== before) writeFileSync(join(root, 'README.md'), after);
}
