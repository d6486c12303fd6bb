import { multiplyMatrices } from './matmul.js';
import { floats, type Kernels } from './operand.js';

/** The places of the k largest of some numbers, the largest first, of equal ones the first. */
function largest(numbers: Float32Array, k: number): number[] {
  const taken: number[] = [];
  for (let j = 0; j < k; j++) {
    let best = -1;
    for (let e = 0; e < numbers.length; e++) if (!taken.includes(e) && (best < 0 || numbers[e] > numbers[best])) best = e;
    taken.push(best);
  }
  return taken;
}

type ExpertOps = 'route' | 'routeBackward' | 'groupRows' | 'groupMatmul' | 'combineRows' | 'combineRowsBackward';

export const expertOps: Kernels<ExpertOps> = {
  route: ({ logits }, { probabilities, experts, weights }, { normalize }) => {
    const [T, E] = logits.check(['f32'], [-1, -1]).shape;
    const [, k] = experts.check(['i32'], [T, -1]).shape;
    if (k > E) experts.refuse(`${k} experts of ${E}`);
    probabilities.check(['f32'], [T, E]);
    weights.check(['f32'], [T, k]);
    const [x, p, chosen, w] = [logits.values(), probabilities.values(), experts.integers(), weights.values()];
    for (let t = 0; t < T; t++) {
      const row = x.subarray(t * E, (t + 1) * E);
      const most = row.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
      const parts = Array.from(row, (value) => Math.exp(value - most));
      const sum = parts.reduce((a, b) => a + b, 0);
      const best = largest(row, k);
      const share = best.reduce((total, e) => total + parts[e] / sum, 0);
      p.set(
        parts.map((part) => part / sum),
        t * E,
      );
      chosen.set(best, t * k);
      w.set(
        best.map((e) => parts[e] / sum / (normalize ? share : 1)),
        t * k,
      );
    }
  },
  routeBackward: ({ probabilities, experts, dweights, counts }, { dlogits }, { normalize, balance }) => {
    const [T, E] = probabilities.check(['f32'], [-1, -1]).shape;
    const [, k] = experts.check(['i32'], [T, -1]).shape;
    const chosen = experts.places(E);
    const [p, dw] = [probabilities.values(), dweights.check(['f32'], [T, k]).values()];
    const load = counts?.check(['f32'], [E]).values();
    const result = new Float32Array(dlogits.check(['f32'], [T, E]).size);
    for (let t = 0; t < T; t++) {
      const of = (e: number) => p[t * E + e];
      const choices = Array.from({ length: k }, (_, j) => ({ e: chosen[t * k + j], d: dw[t * k + j] }));
      const share = normalize ? choices.reduce((sum, { e }) => sum + of(e), 0) : 1;
      const mean = normalize ? choices.reduce((sum, { e, d }) => sum + (of(e) / share) * d, 0) : 0;
      const dp = Float64Array.from({ length: E }, (_, e) => (load ? balance * load[e] : 0));
      for (const { e, d } of choices) dp[e] += (d - mean) / share;
      const inner = dp.reduce((sum, d, e) => sum + of(e) * d, 0);
      result.set(
        dp.map((d, e) => of(e) * (d - inner)),
        t * E,
      );
    }
    dlogits.store(result);
  },
  groupRows: ({ experts }, { tokens, places, groups, counts }) => {
    const [T, k] = experts.check(['i32'], [-1, -1]).shape;
    const E = groups.check(['i32'], [-1]).shape[0] - 1;
    const chosen = experts.places(E);
    const [token, place] = [tokens.check(['i32'], [T * k]).integers(), places.check(['i32'], [T, k]).integers()];
    const order = [...chosen.keys()].sort((a, b) => chosen[a] - chosen[b] || a - b);
    for (const [at, n] of order.entries()) {
      token[at] = Math.floor(n / k);
      place[n] = at;
    }
    const before = (e: number) => chosen.filter((expert) => expert < e).length;
    groups.integers().set(Array.from({ length: E + 1 }, (_, e) => before(e)));
    counts?.store(
      counts
        .check(['f32'], [E])
        .values()
        .map((count, e) => count + before(e + 1) - before(e)),
    );
  },
  groupMatmul: ({ a, b, groups, absmax, constants }, { out }, { group, ...attributes }) => {
    const [R] = a.check(floats, [-1, -1]).shape;
    const [bounds] = groups.check(['i32'], [-1]).shape;
    if (!(group >= 0 && group + 1 < bounds)) groups.refuse(`has no group ${group}`);
    const [begin, end] = groups.places(R + 1).subarray(group, group + 2);
    if (end < begin) groups.refuse(`group ${group} goes from ${begin} to ${end}`);
    const some = [begin, end] as const;
    if (attributes.transposeA) multiplyMatrices({ a: a.rows(...some), b: b.check(floats, [R, -1]).rows(...some) }, out, attributes);
    else multiplyMatrices({ a: a.rows(...some), b, absmax, constants }, out.check(floats, [R, -1]).rows(...some), attributes);
  },
  combineRows: ({ x, places, weights, residual }, { out }) => {
    const [N, C] = x.check(floats, [-1, -1]).shape;
    const [T] = out.check(floats, [-1, C]).shape;
    const [, k] = places.check(['i32'], [T, -1]).shape;
    const [rows, values] = [places.places(N), x.values()];
    const [w, rest] = [weights?.check(['f32'], [T, k]).values(), residual?.check(floats, [T, C]).values()];
    const result = new Float32Array(T * C).map((_, i) => {
      const [t, c] = [Math.floor(i / C), i % C];
      let sum = rest?.[i] ?? 0;
      for (let j = t * k; j < (t + 1) * k; j++) sum += (w?.[j] ?? 1) * values[rows[j] * C + c];
      return sum;
    });
    out.store(result);
  },
  combineRowsBackward: ({ x, places, weights, dout }, { dx, dweights }) => {
    const [T, C] = dout.check(floats, [-1, -1]).shape;
    const [, k] = places.check(['i32'], [T, -1]).shape;
    const [values, g] = [x.check(floats, [T * k, C]).values(), dout.values()];
    const [rows, w] = [places.places(T * k), weights.check(['f32'], [T, k]).values()];
    const result = dx
      .check(floats, [T * k, C])
      .values()
      .slice();
    const inner = new Float32Array(dweights.check(['f32'], [T, k]).size);
    for (let i = 0; i < T * k; i++) {
      const [row, t] = [rows[i] * C, Math.floor(i / k) * C];
      let sum = 0;
      for (let c = 0; c < C; c++) sum += values[row + c] * g[t + c];
      inner[i] = sum;
      for (let c = 0; c < C; c++) result[row + c] = w[i] * g[t + c];
    }
    dx.store(result);
    dweights.store(inner);
  },
};
