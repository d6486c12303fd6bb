import type { Span } from '../core/backend.js';

/** Floating-point operations of an op that is a matrix product, by its operands' shapes; undefined for the others. */
export function operationsOf({ op, operands }: Span): number | undefined {
  const { a, out, x, y, dy, weight, A, h } = operands;
  switch (op) {
    case 'matmul':
      return 2 * a[0] * a[1] * out[1];
    case 'loraLinear':
      return 2 * x[0] * ((y ? weight[0] * weight[1] : 0) + A[0] * (weight[1] + (y ? weight[0] : 0)));
    case 'loraLinearBackward':
      return 2 * dy[0] * (weight[0] * weight[1] + A[0] * (weight[0] + weight[1]));
    case 'loraGradients':
      return 2 * x[0] * h[1] * (x[1] + dy[1]);
    default:
      return undefined;
  }
}

const round = (value: number) => Math.round(value * 1000) / 1000;

/**
 * A profile as Chrome's trace event format has it (chrome://tracing, https://ui.perfetto.dev): the phases of the step in one row, its ops in
 * another, with shapes and GFLOP/s.
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
  const ops = spans.map((span) => {
    const { op, phase, operands, start, end } = span;
    const work = operationsOf(span);
    const shapes = Object.fromEntries(Object.entries(operands).map(([name, shape]) => [name, shape.join('×')]));
    return event(1, op, phase, start, end, { ...shapes, ...(work ? { 'GFLOP/s': Math.round(work / (end - start) / 1e6) } : {}) });
  });
  return {
    traceEvents: [...rows, ...phases.map(({ name, start, end }) => event(0, name, 'phase', start, end)), ...ops],
    displayTimeUnit: 'ms',
  };
}

/** One line per op: calls, milliseconds, share of all ops, GFLOP/s; the dearest first. */
export function opTimes(spans: readonly Span[]): string {
  const sums = new Map<string, { calls: number; time: number; work: number }>();
  for (const span of spans) {
    const sum = sums.get(span.op) ?? { calls: 0, time: 0, work: 0 };
    sums.set(span.op, { calls: sum.calls + 1, time: sum.time + span.end - span.start, work: sum.work + (operationsOf(span) ?? 0) });
  }
  const all = [...sums.values()].reduce((sum, { time }) => sum + time, 0);
  const lines = [...sums]
    .sort(([, a], [, b]) => b.time - a.time)
    .map(([op, { calls, time, work }]) => {
      const rate = work > 0 ? `${Math.round(work / time / 1e6)} GFLOP/s` : '';
      const columns = [String(calls).padStart(6), `${time.toFixed(1)} ms`.padStart(12), `${((100 * time) / all).toFixed(1)} %`.padStart(8)];
      return `${op.padEnd(20)}${columns.join('')}  ${rate}`.trimEnd();
    });
  return [`${all.toFixed(0)} ms in ops`, ...lines].join('\n  ');
}
