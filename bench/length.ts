/**
 * The suite `length`: one sequence of growing length at the 135M shape. Peak memory should grow as a line in the length, and a token's time
 * by no more than attention's share of it explains: that share is taken from the ops' own times at the shortest length and grows with the
 * length. PEFT's figures stand beside them.
 */
import { median } from './contender.js';
import { contendersOf } from './lora.js';
import type { Run } from './shapes.js';
import { type Bench, judged, type Row, round } from './suite.js';

const lengths = [512, 1024, 2048, 4096, 8192];
const rounds = 5;

interface Point {
  length: number;
  seconds: number;
  peakGb: number;
  /** Seconds of the attention ops in a step. */
  attention: number;
}

async function measure(run: Run, who: 'ours' | 'eager', bench: Bench): Promise<Point> {
  const contender = (await contendersOf(run, bench.python))[who]();
  try {
    const seconds: number[] = [];
    for (let step = 0; step <= rounds; step++) {
      const answer = await contender.ask<{ seconds: number }>({ step });
      if (step > 0) seconds.push(answer.seconds);
    }
    const { peak_rss_gb } = await contender.ask<{ peak_rss_gb: number }>({});
    const { ops } = await contender.ask<{ ops?: Record<string, number> }>({ step: 0, ops: true });
    const attention = (ops?.attention ?? 0) + (ops?.attentionBackward ?? 0);
    const point = { length: run.length, seconds: median(seconds), peakGb: peak_rss_gb, attention };
    bench.note(`  ${contender.name} ${run.length}: ${(run.length / point.seconds).toFixed(0)} tokens/s, ${point.peakGb.toFixed(2)} GB`);
    return point;
  } finally {
    await contender.close();
  }
}

/** The line through points by least squares. */
function lineThrough(points: readonly { length: number; peakGb: number }[]): (length: number) => number {
  const mean = (values: number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const [x, y] = [mean(points.map(({ length }) => length)), mean(points.map(({ peakGb }) => peakGb))];
  const covariance = mean(points.map(({ length, peakGb }) => (length - x) * (peakGb - y)));
  const slope = covariance / mean(points.map(({ length }) => (length - x) ** 2));
  return (length) => y + slope * (length - x);
}

export async function lengthSuite(bench: Bench): Promise<Row[]> {
  const rows: Row[] = [];
  for (const checkpointing of [false, true]) {
    const name = checkpointing ? 'checkpointed' : 'plain';
    if (!name.includes(bench.only ?? '')) continue;
    bench.note(name);
    const mine: Point[] = [];
    const theirs: (Point | undefined)[] = [];
    for (const length of lengths) {
      const run: Run = { shape: 'smol135', dtype: 'bf16', batch: 1, length, checkpointing };
      mine.push(await measure(run, 'ours', bench));
      theirs.push(
        await measure(run, 'eager', bench).catch((error) => {
          bench.note(`  PEFT at ${length}: ${error.message}`);
          return undefined;
        }),
      );
    }
    const line = lineThrough(mine);
    const [first] = mine;
    for (const [i, point] of mine.entries()) {
      const { length, seconds, peakGb } = point;
      const growth = length / first.length;
      // Of a token: attention's time grows with the length, the rest stays.
      const explained = (first.seconds - first.attention + first.attention * growth) * growth;
      const their = theirs[i];
      rows.push(
        judged({
          case: `${name}, 1 × ${length}`,
          ours: {
            tokens_per_second: round(length / seconds),
            peak_rss_gb: round(peakGb),
            memory_over_line: round(peakGb / line(length)),
            time_over_explained: round(seconds / explained),
          },
          peer: their
            ? { tokens_per_second: round(length / their.seconds), peak_rss_gb: round(their.peakGb) }
            : { failed: 'out of memory' },
          ...(their ? { speed: round(their.seconds / seconds), memory: round(peakGb / their.peakGb) } : {}),
          goal: { memory_over_line: 1.1, time_over_explained: 1.1 },
        }),
      );
    }
  }
  return rows;
}
