import { afterEach, describe, expect, test } from 'vitest';
import { ReferenceBackend } from '../../src/backends/reference/index.js';
import { discard, scope, unscoped } from '../../src/core/scope.js';
import { Gradients, type Results, recompute, Tape } from '../../src/core/tape.js';
import { fromArray, type Tensor, zeros } from '../../src/core/tensor.js';
import { add, attention, gated, linear, rmsNorm } from '../../src/ops/index.js';
import { LowrankError } from '../../src/util/errors.js';
import { Random } from '../../src/util/philox.js';

const backend = new ReferenceBackend();
const used = () => backend.memory().current;
const numbers = (...values: number[]) => fromArray(backend, Float32Array.from(values));

function random(seed: number, ...shape: number[]): Tensor {
  const source = new Random(seed, 0);
  const size = shape.reduce((a, b) => a * b);
  return fromArray(
    backend,
    Float32Array.from({ length: size }, () => source.normal()),
    shape,
  );
}

function trainable(tensor: Tensor): Tensor {
  tensor.requiresGrad = true;
  return tensor;
}

// Every test gives back what it made.
afterEach(() => expect(used()).toBe(0));

describe('scope', () => {
  test('frees what was made in it but its result', async () => {
    const kept = scope(() => {
      zeros(backend, [100], 'f32');
      const [a, b] = [numbers(1, 2), numbers(3)];
      expect(used()).toBe(412);
      return [a, b];
    });
    expect(used()).toBe(12);
    expect([...(await kept[0].toFloat32())]).toEqual([1, 2]);
    for (const tensor of kept) tensor.dispose();
  });

  test('passes its result to the scope around it', () => {
    scope(() => {
      const a = scope(() => add(numbers(1, 2), numbers(3, 4)));
      expect(used()).toBe(8);
      expect(a.shape).toEqual([2]);
    });
    expect(used()).toBe(0);
  });

  test('frees everything when its body throws', () => {
    const body = () => {
      numbers(1, 2);
      scope(() => add(numbers(1, 2), numbers(3)));
    };
    expect(() => scope(body)).toThrow(/^add: /);
    expect(used()).toBe(0);
  });

  test('lets go of a tensor before its end, once', () => {
    scope(() => {
      const a = numbers(1, 2);
      discard(a);
      expect(used()).toBe(0);
      discard(a);
      const kept = numbers(3);
      scope(() => discard(kept));
      expect(used()).toBe(4);
    });
  });

  test('leaves alone what is made outside of it', () => {
    const cache = scope(() => {
      numbers(1);
      const made: Tensor[] = [];
      unscoped(() => made.push(numbers(2, 3)));
      return () => made[0];
    });
    expect(used()).toBe(8);
    cache().dispose();
  });

  test('a tensor that it freed cannot be used', async () => {
    let lost: Tensor | undefined;
    scope(() => {
      lost = numbers(1, 2);
    });
    expect(() => backend.run('fill', {}, { out: lost! }, { value: 1 })).toThrow(/^fill: out: the buffer was freed/);
    await expect(lost!.toFloat32()).rejects.toThrow(LowrankError);
    expect(() => lost!.write(new Uint8Array(8))).toThrow(LowrankError);
    expect(() => lost!.dispose()).toThrow(/freed twice/);
  });
});

describe('tape', () => {
  test('keeps what the backward pass needs, and no longer', async () => {
    const [x, weight] = [trainable(random(1, 4, 3)), trainable(random(2, 5, 3))];
    const parameters = used();
    const tape = new Tape();
    const gradients = new Gradients();
    const dy = unscoped(() => random(3, 4, 5));
    const y = tape.record(() => scope(() => linear(add(x, x), weight)));
    // x + x lives on for the gradient of the weight; y is the caller's.
    expect(used() - parameters).toBe(4 * (12 + 20 + 20));
    tape.backward(y, dy, gradients);
    expect(used() - parameters).toBe(4 * (12 + 15 + 20 + 20));
    expect([...gradients.keys()]).toEqual(expect.arrayContaining([x, weight]));
    gradients.clear();
    for (const tensor of [x, weight, y, dy]) tensor.dispose();
  });

  test('cleared without a backward pass, it frees what it kept', () => {
    const weight = trainable(random(2, 5, 3));
    const tape = new Tape();
    scope(() => {
      tape.record(() => linear(random(1, 4, 3), weight));
    });
    expect(used()).toBe(4 * (15 + 12));
    tape.clear();
    weight.dispose();
  });

  test('sums the gradients of a tensor that is used more than once, also over passes', async () => {
    const x = trainable(numbers(1, 2));
    const gradients = new Gradients();
    const dy = numbers(10, 20);
    for (const passes of [1, 2]) {
      scope(() => {
        const tape = new Tape();
        const y = tape.record(() => add(add(x, x), x));
        tape.backward(y, dy, gradients);
      });
      expect([...(await gradients.get(x)!.toFloat32())]).toEqual([30 * passes, 60 * passes]);
    }
    // The gradient handed in is not written to, though the sums began with it.
    expect([...(await dy.toFloat32())]).toEqual([10, 20]);
    gradients.clear();
    for (const tensor of [x, dy]) tensor.dispose();
  });

  test('records nothing that no trainable tensor has touched', () => {
    const [x, y] = [numbers(1, 2), numbers(3, 4)];
    const tape = new Tape();
    scope(() => {
      const gate = tape.record(() => gated(x, y, 'silu'));
      expect(gate.requiresGrad).toBe(false);
    });
    expect(used()).toBe(16);
    const free = scope(() => gated(trainable(x), y, 'silu'));
    expect(free.requiresGrad).toBe(false);
    for (const tensor of [x, y, free]) tensor.dispose();
  });

  test('a taken gradient passes to the scope', () => {
    const x = trainable(numbers(1));
    const gradients = new Gradients();
    scope(() => gradients.accumulate(x, numbers(5)));
    expect(used()).toBe(8);
    scope(() => {
      expect(gradients.take(x)?.shape).toEqual([1]);
      expect(gradients.take(x)).toBeUndefined();
    });
    expect(used()).toBe(4);
    x.dispose();
  });
});

describe('recompute', () => {
  const [T, C, F] = [6, 8, 12];
  const segmentRows = Int32Array.of(0, 4, 0, 4, 4, 6, 4, 6);

  /** A layer with everything that could differ when it runs again: dropout, packed attention, trainable vectors and matrices. */
  function layer(parameters: readonly Tensor[], table: Tensor, stream: number) {
    const [norm, weight, A, B, up, down] = parameters;
    return (x: Tensor, kept?: Results): Results => {
      const normed = rmsNorm(x, norm, 1e-6);
      const lora = { A, B, scale: 2, dropout: { p: 0.3, seed: 1, stream, step: 9 } };
      const q = linear(normed, weight, { lora });
      const segments = { table, rows: segmentRows };
      const heads = attention(q, normed, normed, segments, { headDim: 4, scale: 0.5 }, kept?.out && { out: kept.out, lse: kept.lse });
      const mixed = add(x, heads.out);
      const y = linear(gated(linear(mixed, up), linear(mixed, up), 'silu'), down, { residual: mixed, kept: kept?.output });
      return { output: y, out: heads.out, lse: heads.lse };
    };
  }

  async function gradientsOf(again: boolean) {
    const shapes = [[C], [C, C], [2, C], [C, 2], [F, C], [C, F]];
    const parameters = shapes.map((shape, i) => trainable(random(10 + i, ...shape)));
    const x = trainable(random(20, T, C));
    const dy = random(21, T, C);
    const table = fromArray(backend, segmentRows, [2, 4]);
    const gradients = new Gradients();
    const tape = new Tape();
    let kept = 0;
    const y = scope(() => {
      const before = used();
      const layers = [0, 1].map((stream) => layer(parameters, table, stream));
      const output = tape.record(() =>
        scope(() => layers.reduce((hidden, body) => (again ? recompute(hidden, [table], body) : body(hidden).output), x)),
      );
      kept = used() - before;
      tape.backward(output, dy, gradients);
      return output;
    });
    const results = await Promise.all([y, ...[x, ...parameters].map((tensor) => gradients.get(tensor)!)].map((tensor) => tensor.read()));
    gradients.clear();
    for (const tensor of [...parameters, x, dy, table, y]) tensor.dispose();
    return { results, kept };
  }

  test('gives the same bits and keeps nothing but the layers’ results', async () => {
    const plain = await gradientsOf(false);
    const recomputed = await gradientsOf(true);
    expect(recomputed.results).toEqual(plain.results);
    expect(plain.results.every((bytes) => new Float32Array(bytes.buffer).every((value) => Number.isFinite(value) && value !== 0))).toBe(
      true,
    );
    // Of both layers the output, the attention's and its two numbers per row; x is a parameter.
    expect(recomputed.kept).toBe(2 * 4 * T * (C + C + 2));
    expect(plain.kept).toBeGreaterThan(3 * recomputed.kept);
  });

  test('without a tape it is its body', async () => {
    const x = numbers(1, 2);
    const y = recompute(x, [], (input) => ({ output: add(input, input) }));
    expect([...(await y.toFloat32())]).toEqual([2, 4]);
    for (const tensor of [x, y]) tensor.dispose();
  });
});
