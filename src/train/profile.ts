import type { Span } from '../core/backend.js';
import type { Work } from '../core/ops.work.js';

const round = (value: number) => Math.round(value * 1000) / 1000;

/** What so much work in so many milliseconds is in a second: products by what they compute, other ops by what they move. */
function rateOf({ flops, bytes }: Work, time: number): { unit: 'GFLOP/s' | 'GB/s'; rate: number } {
  return flops > 0 ? { unit: 'GFLOP/s', rate: Math.round(flops / time / 1e6) } : { unit: 'GB/s', rate: Math.round(bytes / time / 1e6) };
}

/**
 * A profile as Chrome's trace event format has it (chrome://tracing, https://ui.perfetto.dev): the phases of the step in one row, its ops
 * in another, with shapes and GFLOP/s or GB/s.
 */
export function chromeTrace(spans: readonly Span[]): object {
  const event = (tid: number, name: string, cat: string, start: number, end: number, args: object = {}) => ({
    ph: 'X',
    pid: 1,
    tid,
    name,
    cat,
    ts: round(start * 1000),
    dur: round((end - start) * 1000),
    args,
  });
  const rows = ['phases', 'ops'].map((name, tid) => ({ ph: 'M', pid: 1, tid, name: 'thread_name', args: { name } }));
  const phases: { name: string; start: number; end: number }[] = [];
  for (const { phase, start, end } of spans) {
    const last = phases.at(-1);
    if (last?.name === phase) last.end = end;
    else phases.push({ name: phase, start, end });
  }
  const ops = spans.map(({ op, phase, operands, work, start, end }) => {
    const shapes = Object.fromEntries(Object.entries(operands).map(([name, shape]) => [name, shape.join('×')]));
    const { unit, rate } = rateOf(work, end - start);
    return event(1, op, phase, start, end, { ...shapes, [unit]: rate });
  });
  return {
    traceEvents: [...rows, ...phases.map(({ name, start, end }) => event(0, name, 'phase', start, end)), ...ops],
    displayTimeUnit: 'ms',
  };
}

/** One line per op: calls, milliseconds, share of all ops, GFLOP/s or GB/s; the dearest first. */
export function opTimes(spans: readonly Span[]): string {
  const sums = new Map<string, { calls: number; time: number; work: Work }>();
  for (const { op, start, end, work } of spans) {
    const sum = sums.get(op) ?? { calls: 0, time: 0, work: { flops: 0, bytes: 0 } };
    const total = { flops: sum.work.flops + work.flops, bytes: sum.work.bytes + work.bytes };
    sums.set(op, { calls: sum.calls + 1, time: sum.time + end - start, work: total });
  }
  const all = [...sums.values()].reduce((sum, { time }) => sum + time, 0);
  const lines = [...sums]
    .sort(([, a], [, b]) => b.time - a.time)
    .map(([op, { calls, time, work }]) => {
      const { unit, rate } = rateOf(work, time);
      const columns = [String(calls).padStart(6), `${time.toFixed(1)} ms`.padStart(12), `${((100 * time) / all).toFixed(1)} %`.padStart(8)];
      return `${op.padEnd(20)}${columns.join('')}  ${rate} ${unit}`;
    });
  return [`${all.toFixed(0)} ms in ops`, ...lines].join('\n  ');
}
