import { floats, type Kernels } from './operand.js';

export const norms: Kernels<'rmsNorm' | 'rmsNormBackward' | 'layerNorm' | 'layerNormBackward' | 'softmax' | 'softmaxBackward'> = {
  rmsNorm: ({ x, weight }, { y, rstd }, { eps, offset }) => {
    const [T, C] = x.check(floats, [-1, -1]).shape;
    const w = weight.check(floats, [C]).values();
    y.check(floats, x.shape);
    rstd.check(['f32'], [T]);
    const values = x.values();
    const factor = new Float32Array(T).map((_, t) => {
      let squares = 0;
      for (let c = 0; c < C; c++) squares += values[t * C + c] ** 2;
      return 1 / Math.sqrt(squares / C + eps);
    });
    y.store(values.map((value, i) => value * factor[Math.floor(i / C)] * (w[i % C] + offset)));
    rstd.store(factor);
  },
  rmsNormBackward: ({ x, weight, rstd, dy, residual }, { dx, dweight }, { offset }) => {
    const [T, C] = x.check(floats, [-1, -1]).shape;
    for (const operand of [dy, dx, ...(residual ? [residual] : [])]) operand.check(floats, x.shape);
    const [values, d, w] = [x, dy, weight.check(floats, [C])].map((operand) => operand.values());
    const factor = rstd.check(['f32'], [T]).values();
    const result = residual ? residual.values().slice() : new Float32Array(T * C);
    const sums = Float64Array.from(dweight?.check(['f32'], [C]).values() ?? []);
    for (let t = 0; t < T; t++) {
      let projection = 0;
      for (let c = 0; c < C; c++) projection += d[t * C + c] * (w[c] + offset) * values[t * C + c] * factor[t];
      for (let c = 0; c < C; c++) {
        const i = t * C + c;
        const normed = values[i] * factor[t];
        result[i] += factor[t] * (d[i] * (w[c] + offset) - (normed * projection) / C);
        if (dweight) sums[c] += d[i] * normed;
      }
    }
    dx.store(result);
    dweight?.store(Float32Array.from(sums));
  },
  layerNorm: ({ x, weight, bias }, { y, mean, rstd }, { eps }) => {
    const [T, C] = x.check(floats, [-1, -1]).shape;
    const w = weight.check(floats, [C]).values();
    const b = bias?.check(floats, [C]).values();
    y.check(floats, x.shape);
    const values = x.values();
    const [means, factors] = [mean, rstd].map((operand) => new Float32Array(operand.check(['f32'], [T]).size));
    for (let t = 0; t < T; t++) {
      const row = values.subarray(t * C, (t + 1) * C);
      const center = row.reduce((sum, value) => sum + value, 0) / C;
      means[t] = center;
      factors[t] = 1 / Math.sqrt(row.reduce((sum, value) => sum + (value - center) ** 2, 0) / C + eps);
    }
    const at = (i: number) => Math.floor(i / C);
    y.store(values.map((value, i) => (value - means[at(i)]) * factors[at(i)] * w[i % C] + (b?.[i % C] ?? 0)));
    mean.store(means);
    rstd.store(factors);
  },
  layerNormBackward: ({ x, weight, mean, rstd, dy, residual }, { dx, dweight }) => {
    const [T, C] = x.check(floats, [-1, -1]).shape;
    for (const operand of [dy, dx, ...(residual ? [residual] : [])]) operand.check(floats, x.shape);
    const [values, d, w] = [x, dy, weight.check(floats, [C])].map((operand) => operand.values());
    const [means, factors] = [mean, rstd].map((operand) => operand.check(['f32'], [T]).values());
    const result = residual ? residual.values().slice() : new Float32Array(T * C);
    const sums = Float64Array.from(dweight?.check(['f32'], [C]).values() ?? []);
    for (let t = 0; t < T; t++) {
      const normed = (c: number) => (values[t * C + c] - means[t]) * factors[t];
      let [center, projection] = [0, 0];
      for (let c = 0; c < C; c++) {
        center += (d[t * C + c] * w[c]) / C;
        projection += (d[t * C + c] * w[c] * normed(c)) / C;
      }
      for (let c = 0; c < C; c++) {
        result[t * C + c] += factors[t] * (d[t * C + c] * w[c] - center - normed(c) * projection);
        if (dweight) sums[c] += d[t * C + c] * normed(c);
      }
    }
    dx.store(result);
    dweight?.store(Float32Array.from(sums));
  },
  softmax: ({ x, sink }, { y }, { offset, window }) => {
    const [m, n] = x.check(['f32'], [-1, -1]).shape;
    const more = sink?.check(['f32'], [1]).values()[0] ?? Number.NEGATIVE_INFINITY;
    y.check(['f32'], x.shape);
    const values = x.values();
    const result = new Float32Array(m * n);
    for (let i = 0; i < m; i++) {
      const end = Math.min(n, i + offset + 1);
      const begin = window === 0 ? 0 : Math.max(0, i + offset - window + 1);
      let max = more;
      for (let j = begin; j < end; j++) max = Math.max(max, values[i * n + j]);
      let sum = Math.exp(more - max);
      for (let j = begin; j < end; j++) sum += Math.exp(values[i * n + j] - max);
      for (let j = begin; j < end; j++) result[i * n + j] = Math.exp(values[i * n + j] - max) / sum;
    }
    y.store(result);
  },
  softmaxBackward: ({ y, dy }, { dx, dsink }) => {
    const [m, n] = y.check(['f32'], [-1, -1]).shape;
    for (const operand of [dy, dx]) operand.check(['f32'], y.shape);
    const [p, d] = [y.values(), dy.values()];
    const result = new Float32Array(m * n);
    let slope = dsink?.check(['f32'], [1]).values()[0] ?? 0;
    for (let i = 0; i < m; i++) {
      let [sum, left] = [0, 1];
      for (let j = i * n; j < (i + 1) * n; j++) {
        sum += p[j] * d[j];
        left -= p[j];
      }
      for (let j = i * n; j < (i + 1) * n; j++) result[j] = p[j] * (d[j] - sum);
      slope -= left * sum;
    }
    dx.store(result);
    dsink?.store(Float32Array.of(slope));
  },
};
