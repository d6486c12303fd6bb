import { floats, type Kernels, type Operand } from './operand.js';

/** The examples [begin, end) of T rows with how many inputs came before them, and where their keys begin. */
function examplesOf(segments: Operand, T: number): { begin: number; end: number; past: number; key: number }[] {
  const [S] = segments.check(['i32'], [-1, 4]).shape;
  const table = segments.integers();
  const examples = Array.from({ length: S }, (_, s) => {
    const [begin, end, key, keyEnd] = table.subarray(4 * s, 4 * s + 4);
    const past = keyEnd - key - (end - begin);
    if (begin !== (s === 0 ? 0 : table[4 * s - 3]) || end < begin || end > T || past < 0) {
      segments.refuse(`row ${s} (${begin}, ${end}, ${key}, ${keyEnd}) does not fit ${T} rows`);
    }
    return { begin, end, past, key };
  });
  if ((examples.at(-1)?.end ?? 0) !== T) segments.refuse(`ends at row ${examples.at(-1)?.end ?? 0}`, `${T}`);
  return examples;
}

export const shortConvOps: Kernels<'shortConv' | 'shortConvBackward'> = {
  shortConv: ({ x, weight, segments }, { y, state }, { capacity }) => {
    const [T, C] = x.check(floats, [-1, -1]).shape;
    const [, K] = weight.check(floats, [C, -1]).shape;
    y.check(floats, x.shape);
    state?.check(floats, [-1, C]);
    const [values, w] = [x.values(), weight.values()];
    const last = state?.values().slice() ?? new Float32Array(0);
    const result = new Float32Array(T * C);
    for (const { begin, end, past, key } of examplesOf(segments, T)) {
      const slot = (key / capacity) * (K - 1);
      if (state && !(Number.isInteger(slot) && slot + K - 1 <= state.shape[0])) segments.refuse(`key ${key} is of no slot`);
      // Row t of the example, of those that came before it too.
      const before = (t: number, c: number) => (state && past > 0 ? last[(slot + K - 1 + t) * C + c] : 0);
      const at = (t: number, c: number) => (t < 0 ? before(t, c) : values[(begin + t) * C + c]);
      for (let t = 0; t < end - begin; t++) {
        for (let c = 0; c < C; c++) {
          let sum = 0;
          for (let j = 0; j < K; j++) sum += w[c * K + j] * at(t - K + 1 + j, c);
          result[(begin + t) * C + c] = sum;
        }
      }
      if (!state) continue;
      const next = Float32Array.from({ length: (K - 1) * C }, (_, i) => at(end - begin - K + 1 + Math.floor(i / C), i % C));
      last.set(next, slot * C);
    }
    y.store(result);
    state?.store(last);
  },
  shortConvBackward: ({ x, weight, dy, segments }, { dx, dweight }) => {
    const [T, C] = x.check(floats, [-1, -1]).shape;
    const [, K] = weight.check(floats, [C, -1]).shape;
    for (const operand of [dy, dx]) operand.check(floats, x.shape);
    const [values, w, d] = [x.values(), weight.values(), dy.values()];
    const result = new Float64Array(T * C);
    const slopes = Float64Array.from(dweight?.check(['f32'], weight.shape).values() ?? []);
    for (const { begin, end } of examplesOf(segments, T)) {
      for (let t = begin; t < end; t++) {
        for (let j = Math.max(0, begin + K - 1 - t); j < K; j++) {
          for (let c = 0; c < C; c++) {
            const from = (t - K + 1 + j) * C + c;
            result[from] += w[c * K + j] * d[t * C + c];
            if (dweight) slopes[c * K + j] += d[t * C + c] * values[from];
          }
        }
      }
    }
    dx.store(Float32Array.from(result));
    dweight?.store(Float32Array.from(slopes));
  },
};
