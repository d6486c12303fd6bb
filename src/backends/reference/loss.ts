import { floats, type Kernels, type Operand } from './operand.js';

/** out [1] += total */
function addTo(out: Operand, total: number): void {
  out.store(Float32Array.of(out.check(['f32'], [1]).values()[0] + total));
}

export const lossOps: Kernels<'crossEntropy' | 'sum' | 'sumSquares' | 'argmax'> = {
  crossEntropy: ({ logits, labels, weights }, { losses, gradient }, { scale, softcap }) => {
    const [n, V] = logits.check(['f32'], [-1, -1]).shape;
    const targets = labels.check(['i32'], [n]).integers();
    const factors = weights?.check(['f32'], [n]).values();
    losses.check(['f32'], [n]);
    gradient?.check(floats, logits.shape);
    const results = new Float32Array(n);
    const slopes = new Float32Array(n * V);
    const given = logits.values();
    const all = softcap > 0 ? given.map((x) => softcap * Math.tanh(x / softcap)) : given;
    targets.forEach((target, i) => {
      if (target >= V) labels.refuse(`${target} at ${i}`, `below ${V}`);
      if (target < 0) return;
      const row = all.subarray(i * V, (i + 1) * V);
      const max = row.reduce((a, b) => Math.max(a, b));
      const sum = row.reduce((total, x) => total + Math.exp(x - max), 0);
      results[i] = max + Math.log(sum) - row[target];
      const factor = scale * (factors?.[i] ?? 1);
      row.forEach((x, j) => {
        const slope = softcap > 0 ? 1 - (x / softcap) ** 2 : 1;
        slopes[i * V + j] = factor * (Math.exp(x - max) / sum - (j === target ? 1 : 0)) * slope;
      });
    });
    losses.store(results);
    gradient?.store(slopes);
  },
  sum: ({ x }, { out }, { factor }) => {
    const total = x
      .check(floats)
      .values()
      .reduce((sum, value) => sum + value, 0);
    addTo(out, factor * total);
  },
  sumSquares: ({ x }, { out }) => {
    const total = x
      .check(floats)
      .values()
      .reduce((sum, value) => sum + value ** 2, 0);
    addTo(out, total);
  },
  argmax: ({ x }, { index }) => {
    const [n, V] = x.check(floats, [-1, -1]).shape;
    const result = index.check(['i32'], [n]).integers();
    const values = x.values();
    for (let i = 0; i < n; i++) {
      let best = Number.NEGATIVE_INFINITY;
      result[i] = -1;
      for (let j = 0; j < V; j++) {
        if (!(values[i * V + j] > best)) continue;
        best = values[i * V + j];
        result[i] = j;
      }
    }
  },
};
