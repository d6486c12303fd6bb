/**
 * The suite `decode`: greedy generation, one sequence with its cache, of ours over bf16 and NF4 and of llama.cpp over the same weights in
 * BF16. All live at once and take turns, one answer each; a figure is the median. A token reads all weights once, so the memory's
 * bandwidth, measured in the same run, bounds it: `share` is what of it the weights' bytes use.
 */
import { availableParallelism } from 'node:os';
import { Contender, median } from './contender.js';
import { syntheticGguf } from './gguf.js';
import { prepareLlama } from './llama.js';
import { measureBandwidth } from './machine.js';
import type { DecodeRun } from './ours/decode.js';
import type { LlamaRun } from './peers/llama.js';
import { shapes, syntheticModel } from './shapes.js';
import { type Bench, judged, ours, type Row, round } from './suite.js';

const cases = [
  { name: '135M', shape: 'smol135', goal: {} },
  { name: '1.1B', shape: 'tiny1b', goal: { speed: 1.5 } },
];
const [promptLength, tokens, rounds] = [32, 64, 5];
/** Against the bandwidth, and against llama.cpp where it runs the same instructions. */
const [share, speed] = [0.65, 0.9];

interface Decoded {
  /** Of one token, the median. */
  seconds: number;
  ids: readonly number[];
}

/** A warm-up of each, then `rounds` answers of each, taking turns. */
async function answers(contenders: readonly Contender[], prompt: readonly number[], bench: Bench): Promise<Decoded[]> {
  const seconds = contenders.map((): number[] => []);
  const ids: (readonly number[])[] = [];
  for (let i = 0; i <= rounds; i++) {
    for (const [c, contender] of contenders.entries()) {
      const answer = await contender.ask<{ seconds: number; ids: number[] }>({ prompt, tokens });
      if (i > 0) seconds[c].push(answer.seconds);
      ids[c] = answer.ids;
      bench.note(`  ${i === 0 ? 'warm-up' : `${i}/${rounds}`}  ${contender.name} ${(1 / answer.seconds).toFixed(1)} tokens/s`);
    }
  }
  return seconds.map((list, c) => ({ seconds: median(list), ids: ids[c] }));
}

/** How many tokens two answers begin with alike: with random weights two programs that round differently part sooner or later. */
function alike(a: readonly number[], b: readonly number[]): number {
  const parting = a.findIndex((id, i) => id !== b[i]);
  return parting < 0 ? a.length : parting;
}

async function measure({ name, shape, goal }: (typeof cases)[number], packages: string | undefined, bench: Bench): Promise<Row[]> {
  bench.note(name);
  const vocabulary = Number(shapes[shape].vocab_size);
  const prompt = Array.from({ length: promptLength }, (_, i) => (i * 7919 + 11) % vocabulary);
  const folder = await syntheticModel(shape, 'BF16');
  const own = (nf4: boolean) => {
    const run: DecodeRun = { shape, folder, nf4, prompt, tokens };
    return new Contender(`ours ${nf4 ? 'NF4' : 'bf16'}`, process.execPath, [ours('decode'), JSON.stringify(run)]);
  };
  const contenders = [own(false), own(true)];
  try {
    if (packages) {
      const run: LlamaRun = {
        packages,
        model: await syntheticGguf(shape, 'BF16'),
        threads: availableParallelism(),
        context: promptLength + tokens,
      };
      contenders.push(new Contender('llama.cpp', process.execPath, [ours('../peers/llama'), JSON.stringify(run)]));
    }
    const abouts = [];
    for (const contender of contenders) abouts.push(await contender.ask<{ bytes?: number; build?: string }>({ about: true }));
    const bandwidth = await measureBandwidth();
    bench.note(`  memory: ${(bandwidth / 1e9).toFixed(1)} GB/s${abouts[2] ? `; llama.cpp's kernels: ${abouts[2].build}` : ''}`);
    const [bf16, nf4, llama] = await answers(contenders, prompt, bench);
    const figures = ({ seconds }: Decoded, { bytes = 0 }: { bytes?: number }) => ({
      tokens_per_second: round(1 / seconds),
      mb_per_token: round(bytes / 1e6),
      bandwidth_gbs: round(bandwidth / 1e9),
      share: round(bytes / seconds / bandwidth),
    });
    const theirs = llama && {
      tokens_per_second: round(1 / llama.seconds),
      build: abouts[2].build ?? '',
      tokens_alike: alike(bf16.ids, llama.ids),
    };
    return [
      judged({
        case: `${name} bf16: llama.cpp`,
        ours: figures(bf16, abouts[0]),
        ...(theirs && llama ? { peer: theirs, speed: round(llama.seconds / bf16.seconds) } : {}),
        goal: { share, ...(theirs && sameInstructions(theirs.build, bench) ? { speed } : {}) },
      }),
      judged({
        case: `${name} NF4: our bf16`,
        ours: figures(nf4, abouts[1]),
        peer: { tokens_per_second: round(1 / bf16.seconds) },
        speed: round(bf16.seconds / nf4.seconds),
        goal,
      }),
    ];
  } finally {
    await Promise.all(contenders.map((contender) => contender.close()));
  }
}

/** Whether llama.cpp's build is one of those it was held to. */
const sameInstructions = (build: string, { instructions }: Bench) => instructions.llama?.includes(build) ?? false;

export async function decodeSuite(bench: Bench): Promise<Row[]> {
  const rows: Row[] = [];
  const packages = prepareLlama(bench.instructions);
  if (!packages) bench.note(`node-llama-cpp has no binaries for ${process.platform}-${process.arch}: ours stands alone`);
  for (const entry of cases.filter(({ name }) => name.includes(bench.only ?? ''))) rows.push(...(await measure(entry, packages, bench)));
  return rows;
}
