import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Row, root } from './suite.js';

interface Results {
  machine: Record<string, string | number>;
  rows: Row[];
}

function resultsOf(suite: string): Results | undefined {
  const path = join(root, 'bench/results', `${suite}.json`);
  return existsSync(path) ? JSON.parse(readFileSync(path, 'utf8')) : undefined;
}

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
    `Measured ${machine.date} in one run, taking turns, medians: ${machine.processor}, ${machine.threads} threads, ${machine.peak_gflops_bf16} GFLOP/s in bf16 and`,
    `${machine.peak_gflops_f32} in f32 out of registers alone; PyTorch 2.13, PEFT 0.21. \`npm run bench -- gemm lora memory length\` measures yours.`,
  ].join('\n');
}

/** Puts the figures of bench/results into the README, between its marks. */
export function updateReadme(): void {
  const path = join(root, 'README.md');
  const lora = resultsOf('lora');
  if (!lora) return;
  const before = readFileSync(path, 'utf8');
  const after = before.replace(/(<!-- bench:lora -->\n)[\s\S]*?(<!-- \/bench -->)/, (_, open, close) => `${open}${table(lora)}\n${close}`);
  if (after !== before) writeFileSync(path, after);
}
