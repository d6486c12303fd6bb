import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Row, root } from './suite.js';

interface Results {
  machine: Record<string, string | number>;
  rows: Row[];
}

function resultsOf(folder: string, suite: string): Results | undefined {
  const path = join(folder, 'bench/results', `${suite}.json`);
  return existsSync(path) ? JSON.parse(readFileSync(path, 'utf8')) : undefined;
}

const machineOf = ({ processor, instruction_set, threads }: Results['machine']) => `${processor}, ${instruction_set}, ${threads} threads`;

const rateOf = (figures: Row['peer'] = {}) =>
  figures.examples_per_second === undefined ? `${figures.tokens_per_second} tokens/s` : `${figures.examples_per_second} examples/s`;

/** The rows of the suite `lora`, one per case, as a Markdown table with the machine under it. */
function table({ machine, rows }: Results): string {
  const names = new Set(rows.map(({ case: name }) => name.slice(0, name.indexOf(':'))));
  const lines = [...names].map((name) => {
    const [eager, compiled] = rows.filter((row) => row.case.startsWith(`${name}:`));
    const against = (row: Row | undefined) => (row ? `${rateOf(row.peer)} (${row.speed} ×)` : '–');
    const memory = `${eager.ours.peak_rss_gb} GB, PEFT ${eager.peer?.peak_rss_gb}`;
    return `| ${name} | ${rateOf(eager.ours)} | ${against(eager)} | ${against(compiled)} | ${memory} |`;
  });
  return [
    '| LoRA step, r 16 on all linear layers | lowrank | PEFT | PEFT, torch.compile | peak memory |',
    '| --- | --- | --- | --- | --- |',
    ...lines,
    '',
    `Measured ${machine.date} in one run, taking turns, medians: ${machineOf(machine)}, ${machine.peak_gflops_bf16} GFLOP/s in bf16 and`,
    `${machine.peak_gflops_f32} in f32 out of registers alone; PyTorch 2.13, PEFT 0.21. \`npm run bench -- gemm lora memory length\` measures yours.`,
  ].join('\n');
}

/** The rows of the suite `qlora`, one per shape: ours, our own LoRA over 16 bits, and the peer's. */
function qloraTable({ machine, rows }: Results): string {
  const names = new Set(rows.map(({ case: name }) => name.slice(0, name.indexOf(':'))));
  const lines = [...names].map((name) => {
    const [theirs, own] = rows.filter((row) => row.case.startsWith(`${name}:`));
    const memory = `${theirs.ours.peak_rss_gb} GB, PEFT ${theirs.peer?.peak_rss_gb}`;
    return `| ${name} | ${rateOf(theirs.ours)} | ${rateOf(own.peer)} (${own.speed} ×) | ${rateOf(theirs.peer)} (${theirs.speed} ×) | ${memory} |`;
  });
  return [
    '| QLoRA step, NF4 with double quantisation | lowrank | our LoRA over bf16 | PEFT + bitsandbytes | peak memory |',
    '| --- | --- | --- | --- | --- |',
    ...lines,
    '',
    `Measured ${machine.date} in the same way: ${machineOf(machine)}; bitsandbytes 0.50.2.`,
  ].join('\n');
}

/** What Dettmers et al. 2023 (QLoRA, figure 6) report for one sequence of 512 tokens, GB. */
const paper: Readonly<Record<string, number>> = { '7B': 6.9, '13B': 11.3, '33B': 24.7, '65B': 45 };

function scaleTable({ machine, rows }: Results): string {
  const lines = rows.map(({ case: name, ours: { peak_rss_gb: peak, step_seconds: seconds, read_gb: read, quantized_gb: base } }) => {
    const published = paper[name.split(/[ ,]/)[0]];
    return `| ${name} | ${base.toFixed(1)} GB | ${peak.toFixed(1)} GB | ${published} GB | ${seconds.toFixed(0)} s | ${read.toFixed(1)} GB |`;
  });
  return [
    '| QLoRA, r 64 on all linear layers, 1 × 512 | 4-bit base | peak memory | the paper’s, on a GPU | a step | read from disk |',
    '| --- | --- | --- | --- | --- | --- |',
    ...lines,
    '',
    `Shapes of Llama with random weights, checkpointed, paged AdamW, one whole step each, ${machine.date}: ${machineOf(machine)}, ${machine.memory_gb} GB of memory.`,
  ].join('\n');
}

const tables = { lora: table, qlora: qloraTable, scale: scaleTable } as const;

/** The README of the project in `folder` as it is, and as it should be: with the figures of bench/results between its marks. */
export function readmeTexts(folder: string): { before: string; after: string } {
  const before = readFileSync(join(folder, 'README.md'), 'utf8');
  let after = before;
  for (const [suite, write] of Object.entries(tables)) {
    const results = resultsOf(folder, suite);
    const place = new RegExp(`(<!-- bench:${suite} -->\\n)[\\s\\S]*?(<!-- /bench -->)`);
    if (results) after = after.replace(place, (_, open, close) => `${open}${write(results)}\n${close}`);
  }
  return { before, after };
}

/** Puts the figures of bench/results into the README. */
export function updateReadme(): void {
  const { before, after } = readmeTexts(root);
  if (after !== before) writeFileSync(join(root, 'README.md'), after);
}
