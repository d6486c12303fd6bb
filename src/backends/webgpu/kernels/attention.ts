import { floats } from '../../../core/operand.js';
import type { OpAttributes, OpInputs } from '../../../core/ops.table.js';
import type { GpuContext, GpuOps } from '../context.js';
import type { GpuOperand, Kernel } from '../kernel.js';
import { bounded, inWholeWords } from './elementwise.js';

/** Queries and keys of a tile. */
const tile = 32;
/** Threads along the rows of a tile, and along its columns. Each has 2 rows and 4 columns. */
const [down, across] = [16, 8];
const size = down * across;
/** Columns of a head that are staged at a time. */
const span = 32;

type Shape = { headDim: number; rounded: boolean; roundedValues: boolean; capped: boolean };

/** Which tile of which segment a workgroup has: `first` and `second` are the columns of `segments` that it goes along. */
const findTile = (first: number, second: number) => /* wgsl */ `
  if (lid == 0u) {
    var rest = group.x;
    found[0] = 0xffffffffu;
    for (var s = 0u; s < p.segments; s++) {
      let begin = u32(segments_at(4u * s + ${first}u));
      let end = u32(segments_at(4u * s + ${second}u));
      let count = (end - begin + ${tile - 1}u) / ${tile}u;
      if (rest < count) {
        found[0] = begin + rest * ${tile}u;
        for (var i = 0u; i < 4u; i++) { found[i + 1u] = u32(segments_at(4u * s + i)); }
        break;
      }
      rest -= count;
    }
  }
  let origin = workgroupUniformLoad(&found[0]);
  if (origin == 0xffffffffu) { return; }
  let q_start = workgroupUniformLoad(&found[1]);
  let q_end = workgroupUniformLoad(&found[2]);
  let k_start = workgroupUniformLoad(&found[3]);
  let k_end = workgroupUniformLoad(&found[4]);
  // Query row i stands at key row i + past − past, in numbers that may wrap: both are rows of their matrices.
  let past = (k_end - k_start) - (q_end - q_start);
  let x = lid % ${across}u;
  let y = lid / ${across}u;
`;

const shared = ({ capped }: Shape) => /* wgsl */ `${bounded}
/** The score of a product of a query and a key, and its slope. */
fn score_of(product: f32) -> f32 { return ${capped ? 'p.softcap * bounded(p.scale * product / p.softcap)' : 'p.scale * product'}; }
fn slope_of(product: f32) -> f32 {
  let t = ${capped ? 'bounded(p.scale * product / p.softcap)' : '0.0'};
  return (1.0 - t) * (1.0 + t);
}
var<workgroup> found: array<u32, 5>;
var<workgroup> left_tile: array<f32, ${tile * span}>;
var<workgroup> right_tile: array<f32, ${tile * span}>;
var<workgroup> scores: array<f32, ${tile * (tile + 1)}>;
/** Whether the query of row i sees the key of row j. */
fn sees(i: u32, j: u32, q_start: u32, q_end: u32, k_start: u32, k_end: u32, past: u32) -> bool {
  if (i >= q_end || j >= k_end) { return false; }
  let at = i - q_start + past;
  let key = j - k_start;
  return key <= at && (p.window == 0u || key + p.window > at);
}
`;

/** Stages columns [d0, d0 + span) of rows of a matrix; rows past `end` are zeros. */
function stage(into: string, name: string, from: string, end: string, width: string, head: string, round: boolean): string {
  const value = `${name}_at(row * ${width} + ${head} * p.headDim + d)`;
  return `    for (var at = lid; at < ${tile * span}u; at += ${size}u) {
      let row = ${from} + at / ${span}u;
      let d = d0 + at % ${span}u;
      var v = 0.0;
      if (row < ${end} && d < p.headDim) { v = ${round ? `bf16_round(${value})` : value}; }
      ${into}[at] = v;
    }\n`;
}

/** sums[2][4] += left rows · right rows over a span. */
const dots = (sums: string) => `    for (var d = 0u; d < ${span}u; d++) {
      let l = vec2f(left_tile[(2u * y) * ${span}u + d], left_tile[(2u * y + 1u) * ${span}u + d]);
      let r = vec4f(right_tile[(4u * x) * ${span}u + d], right_tile[(4u * x + 1u) * ${span}u + d],
        right_tile[(4u * x + 2u) * ${span}u + d], right_tile[(4u * x + 3u) * ${span}u + d]);
      ${sums}0 += l.x * r;
      ${sums}1 += l.y * r;
    }
    workgroupBarrier();\n`;

/** left rows [origin …) of a times right rows [k0 …) of b, over the whole head, into two vectors of four sums. */
function product(sums: string, left: string, right: string): string {
  return `  var ${sums}0 = vec4f();
  var ${sums}1 = vec4f();
  for (var d0 = 0u; d0 < p.headDim; d0 += ${span}u) {
${left}${right}    workgroupBarrier();
${dots(sums)}  }\n`;
}

const at = (row: string, column: string) => `(${row}) * ${tile + 1}u + ${column}`;

/** For each of this thread's 2 × 4 places (row r, column c, in `r_` and `c_`). */
const places = (body: (r: number, c: number) => string) =>
  [0, 1].flatMap((r) => [0, 1, 2, 3].map((c) => `    { ${body(r, c)} }\n`)).join('');

/** result[span][2 rows] += scores (transposed or not) · the staged rows, for one span of the head. */
function gather(result: string, u: number, transposed: boolean): string {
  const weight = (r: number) => (transposed ? at('j', `2u * y + ${r}u`) : at(`2u * y + ${r}u`, 'j'));
  return `    for (var j = 0u; j < ${tile}u; j++) {
      let v = vec4f(right_tile[j * ${span}u + 4u * x], right_tile[j * ${span}u + 4u * x + 1u],
        right_tile[j * ${span}u + 4u * x + 2u], right_tile[j * ${span}u + 4u * x + 3u]);
      ${result}${u}_0 += scores[${weight(0)}] * v;
      ${result}${u}_1 += scores[${weight(1)}] * v;
    }
    workgroupBarrier();\n`;
}

const spans = ({ headDim }: Shape) => Array.from({ length: Math.ceil(headDim / span) }, (_, u) => u);
const zeros = (result: string, shape: Shape) =>
  spans(shape)
    .map((u) => `  var ${result}${u}_0 = vec4f();\n  var ${result}${u}_1 = vec4f();\n`)
    .join('');

/** Writes the gathered rows, two columns at a time. */
const write = (name: string, result: string, shape: Shape, width: string, head: string, end: string, factor: (r: number) => string) =>
  spans(shape)
    .flatMap((u) =>
      [0, 1].map(
        (r) => `  {
    let row = origin + 2u * y + ${r}u;
    let d = ${u * span}u + 4u * x;
    let v = ${result}${u}_${r} * ${factor(r)};
    let to = row * ${width} + ${head} * p.headDim + d;
    if (row < ${end} && d < p.headDim) { ${name}_put(to, v.xy, d + 1u < p.headDim); }
    if (row < ${end} && d + 2u < p.headDim) { ${name}_put(to + 2u, v.zw, d + 3u < p.headDim); }
  }\n`,
      ),
    )
    .join('');

const qWidth = 'p.heads * p.headDim';
const kWidth = 'p.keyHeads * p.headDim';
const stageQ = (shape: Shape) => stage('left_tile', 'q', 'origin', 'q_end', qWidth, 'h', shape.rounded);
const stageDout = (shape: Shape) => stage('left_tile', 'dout', 'origin', 'q_end', qWidth, 'h', shape.roundedValues);
const stageV = (shape: Shape) => stage('right_tile', 'v', 'k0', 'k_end', kWidth, 'g', shape.roundedValues);
const stageK = (shape: Shape, into = 'right_tile') => stage(into, 'k', 'k0', 'k_end', kWidth, 'g', shape.rounded);

/** The keys that the queries of a tile see: [k_first, k_last) of the matrix. */
const reach = /* wgsl */ `
  let h = group.y;
  let g = h * p.keyHeads / p.heads;
  let last_at = min(origin + ${tile}u, q_end) - 1u - q_start + past;
  let first_at = origin - q_start + past;
  let k_first = k_start + select(first_at + 1u - min(first_at + 1u, p.window), 0u, p.window == 0u);
  let k_last = k_start + last_at + 1u;
`;

/** One more score of each row, of a key whose value is 0. */
const withSink = /* wgsl */ `
    let most = max(largest, sinks_at(h));
    factor = exp(largest - most);
    sum = sum * factor + exp(sinks_at(h) - most);
    largest = most;
`;

/**
 * A workgroup has a tile of queries of one head and goes through the keys it sees with an online softmax (Dao et al. 2022, algorithm 1).
 * Four threads share a row's maximum and sum.
 */
const attention: Kernel<Shape> = {
  name: 'attention',
  size,
  globals: (shape) => `${shared(shape)}
var<workgroup> statistics: array<f32, ${size}>;
var<workgroup> corrections: array<f32, ${tile}>;\n`,
  main: (shape, has) => `${findTile(0, 1)}${reach}
  let own = lid / 4u;
  let quarter = (lid % 4u) * ${tile / 4}u;
  var largest = -3.0e38;
  var total = 0.0;
${zeros('o', shape)}  for (var k0 = k_first; k0 < k_last; k0 += ${tile}u) {
${product('s', stageQ(shape), stageK(shape))}
${places((r, c) => {
  const [i, j] = [`origin + 2u * y + ${r}u`, `k0 + 4u * x + ${c}u`];
  const seen = `sees(${i}, ${j}, q_start, q_end, k_start, k_end, past)`;
  return `scores[${at(`2u * y + ${r}u`, `4u * x + ${c}u`)}] = select(-3.0e38, score_of(s${r}[${c}]), ${seen});`;
})}    workgroupBarrier();
    var most = largest;
    for (var j = 0u; j < ${tile / 4}u; j++) { most = max(most, scores[${at('own', 'quarter + j')}]); }
    statistics[lid] = most;
    workgroupBarrier();
    for (var i = 0u; i < 4u; i++) { most = max(most, statistics[own * 4u + i]); }
    let correction = exp(largest - most);
    largest = most;
    var part = 0.0;
    for (var j = 0u; j < ${tile / 4}u; j++) {
      let score = scores[${at('own', 'quarter + j')}];
      let e = select(0.0, exp(score - most), score > -2.0e38);
      scores[${at('own', 'quarter + j')}] = e;
      part += e;
    }
    total = total * correction + part;
    if (quarter == 0u) { corrections[own] = correction; }
    workgroupBarrier();
    let c0 = corrections[2u * y];
    let c1 = corrections[2u * y + 1u];
${spans(shape)
  .map(
    (u) => `    {
    o${u}_0 *= c0;
    o${u}_1 *= c1;
    let d0 = ${u * span}u;
${stage('right_tile', 'v', 'k0', 'k_end', kWidth, 'g', false)}    workgroupBarrier();
${gather('o', u, false)}    }\n`,
  )
  .join('')}  }
  statistics[lid] = total;
  workgroupBarrier();
  if (quarter == 0u) {
    var sum = statistics[lid] + statistics[lid + 1u] + statistics[lid + 2u] + statistics[lid + 3u];
    var factor = 1.0;
${has.sinks ? withSink : ''}
    corrections[own] = factor / sum;
    if (origin + own < q_end) { lse_set((origin + own) * p.heads + h, largest + log(sum)); }
  }
  workgroupBarrier();
${write('out', 'o', shape, qWidth, 'h', 'q_end', (r) => `corrections[2u * y + ${r}u]`)}`,
};

/** delta [Tq,H] = Σ_d dout·out */
const deltas: Kernel = {
  name: 'attentionDeltas',
  size: 64,
  main: () => `  if (thread >= p.n) { return; }
  var sum = 0.0;
  for (var d = 0u; d < p.headDim; d++) { sum += dout_at(thread * p.headDim + d) * out_at(thread * p.headDim + d); }
  delta_set(thread, sum);`,
};

/** dsinks [H] −= Σ_t exp(sinks − lse)·delta, a thread for each head. */
const sinkGradients: Kernel = {
  name: 'attentionSinkGradients',
  size: 64,
  main: () => `  if (thread >= p.heads) { return; }
  var sum = 0.0;
  for (var t = 0u; t < p.rows; t++) { sum += exp(sinks_at(thread) - lse_at(t * p.heads + thread)) * delta_at(t * p.heads + thread); }
  dsinks_set(thread, dsinks_at(thread) - sum);`,
};

/** Probabilities p of a tile of queries and keys into \`scores\`, or their slopes ds = p·(dp − delta). */
const slopes = (slope: boolean, i: (r: number, c: number) => string, j: (r: number, c: number) => string) =>
  places((r, c) => {
    const seen = `sees(${i(r, c)}, ${j(r, c)}, q_start, q_end, k_start, k_end, past)`;
    const row = `min(${i(r, c)}, q_end - 1u) * p.heads + h`;
    const probability = `exp(score_of(s${r}[${c}]) - lse_at(${row}))`;
    const value = slope ? `${probability} * (t${r}[${c}] - delta_at(${row})) * slope_of(s${r}[${c}])` : probability;
    return `scores[${at(`2u * y + ${r}u`, `4u * x + ${c}u`)}] = select(0.0, ${value}, ${seen});`;
  });

/** A workgroup has a tile of queries of one head and adds up what its keys give: dq = scale·ds·k. */
const queryGradient: Kernel<Shape> = {
  name: 'attentionQueryGradient',
  size,
  globals: (shape) => shared(shape),
  main: (shape) => `${findTile(0, 1)}${reach}
${zeros('o', shape)}  for (var k0 = k_first; k0 < k_last; k0 += ${tile}u) {
${product('s', stageQ(shape), stageK(shape))}
${product('t', stageDout(shape), stageV(shape))}
${slopes(
  true,
  (r) => `(origin + 2u * y + ${r}u)`,
  (_, c) => `(k0 + 4u * x + ${c}u)`,
)}    workgroupBarrier();
${spans(shape)
  .map((u) => `    {\n    let d0 = ${u * span}u;\n${stageK(shape)}    workgroupBarrier();\n${gather('o', u, false)}    }\n`)
  .join('')}  }
${write('dq', 'o', shape, qWidth, 'h', 'q_end', () => 'p.scale')}`,
};

/**
 * A workgroup has a tile of keys of one key head and adds up what all queries of its heads give. Rows of \`scores\` are keys here, columns
 * queries. \`value\`: dv = pᵀ·dout, else dk = scale·dsᵀ·q.
 */
const keyGradient: Kernel<Shape & { value: boolean }> = {
  name: 'attentionKeyGradient',
  size,
  globals: (shape) => shared(shape),
  main: (shape) => {
    const { value, rounded, roundedValues } = shape;
    const rows = (name: string, head: boolean, round: boolean) =>
      head ? stage('right_tile', name, 'i0', 'q_end', qWidth, 'h', round) : stage('left_tile', name, 'origin', 'k_end', kWidth, 'g', round);
    const fromQueries = value ? rows('dout', true, roundedValues) : rows('q', true, rounded);
    return `${findTile(2, 3)}
  let g = group.y;
  let shared_by = p.heads / p.keyHeads;
  // The first query that stands at the tile's first key or behind it, and the end of those that see its last one.
  let key = origin - k_start;
  let i_first = q_start + key - min(key, past);
  let last_key = min(origin + ${tile}u, k_end) - 1u - k_start;
  let i_end = select(min(q_end, q_start + max(last_key + p.window, past) - past), q_end, p.window == 0u);
${zeros('o', shape)}  for (var h = g * shared_by; h < (g + 1u) * shared_by; h++) {
    for (var i0 = i_first; i0 < i_end; i0 += ${tile}u) {
${product('s', rows('k', false, rounded), rows('q', true, rounded))}
${value ? '' : product('t', rows('v', false, roundedValues), rows('dout', true, roundedValues))}
${slopes(
  !value,
  (_, c) => `(i0 + 4u * x + ${c}u)`,
  (r) => `(origin + 2u * y + ${r}u)`,
)}    workgroupBarrier();
${spans(shape)
  .map((u) => `    {\n    let d0 = ${u * span}u;\n${fromQueries}    workgroupBarrier();\n${gather('o', u, false)}    }\n`)
  .join('')}    }
  }
${write(value ? 'dv' : 'dk', 'o', shape, kWidth, 'g', 'k_end', () => (value ? '1.0' : 'p.scale'))}`;
  },
};

/** Checks what both directions have; gives what the kernels need. */
function prepared(
  { q, k, v, segments, sinks }: OpInputs<'attention', GpuOperand>,
  { headDim, scale, window, softcap }: OpAttributes<'attention'>,
) {
  const [queries, qColumns] = q.check(floats, [-1, -1]).shape;
  const [keys, kColumns] = k.check(floats, [-1, -1]).shape;
  v.check(floats, k.shape);
  if (!(headDim > 0) || kColumns === 0 || kColumns % headDim !== 0 || qColumns % kColumns !== 0) {
    q.refuse(`${qColumns} query columns and ${kColumns} key columns do not fit heads of ${headDim}`);
  }
  const [count] = segments.check(['i32'], [-1, 4]).shape;
  const [heads, keyHeads] = [qColumns / headDim, kColumns / headDim];
  sinks?.check(['f32'], [heads]);
  const half = (...operands: GpuOperand[]) => operands.some(({ dtype }) => dtype === 'bf16');
  return {
    integers: { segments: count, heads, keyHeads, headDim, window },
    numbers: { scale, softcap },
    rounded: half(q, k),
    half,
    queryTiles: Math.ceil(queries / tile) + count,
    keyTiles: Math.ceil(keys / tile) + count,
    heads,
    keyHeads,
    capped: softcap > 0,
  };
}

function attend(
  inputs: OpInputs<'attention', GpuOperand>,
  { out, lse }: { out: GpuOperand; lse: GpuOperand },
  attributes: OpAttributes<'attention'>,
  context: GpuContext,
): void {
  const { q, k, v, segments, sinks } = inputs;
  const { integers, numbers, rounded, capped, queryTiles, heads } = prepared(inputs, attributes);
  out.check(floats, q.shape);
  lse.check(['f32'], [q.shape[0], heads]);
  context.checkSegments(segments, q.shape[0], k.shape[0]);
  const constants = { headDim: attributes.headDim, rounded, roundedValues: false, capped };
  inWholeWords(
    context,
    out,
    false,
    (out) => {
      const reads = { q, k, v, segments, sinks };
      context.dispatch({ kernel: attention, constants, reads, writes: { out, lse }, integers, numbers, groups: [queryTiles, heads, 1] });
    },
    attributes.headDim,
  );
}

export const attentionOps: GpuOps<'attention' | 'attentionBackward'> = {
  attention: attend,
  attentionBackward: (inputs, { dq, dk, dv, dsinks }, attributes, context) => {
    const { q, k, v, out, lse, dout, segments, sinks } = inputs;
    const { integers, numbers, rounded, capped, half, queryTiles, keyTiles, heads, keyHeads } = prepared(inputs, attributes);
    const { headDim } = attributes;
    for (const operand of [out, dout, dq]) operand.check(floats, q.shape);
    for (const operand of [dk, dv]) operand.check(floats, k.shape);
    lse.check(['f32'], [q.shape[0], heads]);
    context.checkSegments(segments, q.shape[0], k.shape[0]);
    const n = q.shape[0] * heads;
    const delta = context.scratch('f32', [q.shape[0], heads]);
    context.dispatch({
      kernel: deltas,
      reads: { dout, out },
      writes: { delta },
      integers: { n, headDim },
      groups: [Math.ceil(n / 64), 1, 1],
    });
    if (dsinks && sinks) {
      const rows = { rows: q.shape[0], heads: dsinks.check(['f32'], [heads]).size };
      context.dispatch({
        kernel: sinkGradients,
        reads: { sinks, lse, delta },
        writes: { dsinks },
        integers: rows,
        groups: [Math.ceil(heads / 64), 1, 1],
      });
    }
    const constants = { headDim, rounded, roundedValues: half(dout, v), capped };
    const reads = { q, k, v, dout, lse, delta, segments };
    const rest = { reads, integers, numbers };
    const whole = (target: GpuOperand, body: (target: GpuOperand) => void) => inWholeWords(context, target, false, body, headDim);
    whole(dq, (dq) => context.dispatch({ kernel: queryGradient, constants, ...rest, writes: { dq }, groups: [queryTiles, heads, 1] }));
    const groups = [keyTiles, keyHeads, 1] as const;
    whole(dk, (dk) =>
      context.dispatch({ kernel: keyGradient, constants: { ...constants, value: false }, ...rest, writes: { dk }, groups }),
    );
    whole(dv, (dv) => context.dispatch({ kernel: keyGradient, constants: { ...constants, value: true }, ...rest, writes: { dv }, groups }));
  },
};
