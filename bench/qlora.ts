/**
 * The suite `qlora`: QLoRA steps (NF4 with double quantisation, r 16 on all linear layers, AdamW) of ours, our own bf16 LoRA, and PEFT with
 * bitsandbytes. All load the same weights, live at once and take turns, one step each; a figure is the median. Where the instruction set
 * has no products of bf16, bitsandbytes computes in fp32, its faster mode there.
 */
import { alternate, contendersOf, type Measured } from './lora.js';
import { type Run, stepWork } from './shapes.js';
import { type Bench, judged, type Row, round } from './suite.js';

const rounds = 5;
const cases: { name: string; run: Run }[] = [
  { name: '135M, 4 × 512', run: { method: 'qlora', shape: 'smol135', dtype: 'bf16', batch: 4, length: 512 } },
  { name: '1.1B, 1 × 512', run: { method: 'qlora', shape: 'tiny1b', dtype: 'bf16', batch: 1, length: 512 } },
];

export async function qloraSuite(bench: Bench): Promise<Row[]> {
  const rows: Row[] = [];
  for (const { name, run } of cases.filter((entry) => entry.name.includes(bench.only ?? ''))) {
    bench.note(name);
    const { bf16 } = bench.instructions;
    const peerDtype = bf16 ? 'bf16' : 'fp32';
    const [quantized, plain, peers] = [
      await contendersOf(run, bench.python),
      await contendersOf({ ...run, method: 'lora' }, bench.python),
      await contendersOf({ ...run, dtype: peerDtype }, bench.python),
    ];
    const running = [quantized.ours(), plain.ours('our bf16 LoRA'), peers.eager()];
    const measured = await alternate(running, rounds, bench.note).finally(() => Promise.all(running.map((c) => c.close())));
    const [qlora, lora, theirs] = measured;
    const figures = ({ seconds, peakGb }: Measured) => ({
      tokens_per_second: round((run.batch * run.length) / seconds),
      step_seconds: round(seconds),
      peak_rss_gb: round(peakGb),
    });
    const share = round((await stepWork(run)) / qlora.seconds / bench.peaks.bf16);
    rows.push(
      judged({
        case: `${name}: PEFT + bitsandbytes`,
        ours: { ...figures(qlora), share },
        peer: figures(theirs),
        ...(bf16 ? {} : { dtypes: { ours: run.dtype, peer: peerDtype } }),
        speed: round(theirs.seconds / qlora.seconds),
        memory: round(qlora.peakGb / theirs.peakGb),
        goal: bf16 ? { speed: 3, memory: 0.5 } : run.shape === 'tiny1b' ? { peak_rss_gb: 1.7 } : {},
      }),
      judged({
        case: `${name}: our bf16 LoRA`,
        ours: figures(qlora),
        peer: figures(lora),
        speed: round(lora.seconds / qlora.seconds),
        memory: round(qlora.peakGb / lora.peakGb),
        goal: { speed: 0.9 },
      }),
    );
  }
  return rows;
}
