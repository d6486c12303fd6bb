import { describe, expect, test } from 'vitest';
import { type Batch, type BatchOptions, batchesOf, concatenate, splitExamples, stepsPerEpoch } from '../../src/data/batches.js';
import type { Example } from '../../src/data/prepare.js';
import { Random } from '../../src/util/philox.js';

/** Examples whose tokens name example and position: 1000·i + t. A third of the tokens, from the end, is supervised. */
function examplesOf(count: number, longest: number): Example[] {
  const random = new Random(5, 0);
  return Array.from({ length: count }, (_, i) => {
    const length = 1 + Math.floor(random.next() * longest);
    const inputIds = Int32Array.from({ length }, (_, t) => 1000 * i + t);
    const labels = inputIds.map((id, t) => (3 * t > 2 * length ? id : -100));
    return { sequences: [{ inputIds, labels }], row: `data.jsonl:${i + 1}` };
  });
}

const lengthOf = ({ sequences: [{ inputIds }] }: Example) => inputIds.length;
const examples = examplesOf(97, 60);
const options: BatchOptions = { sequence_len: 64, micro_batch_size: 2, gradient_accumulation_steps: 3, seed: 7 };
const settings: [string, Partial<BatchOptions>][] = [
  ['as they come', {}],
  ['packed', { sample_packing: true }],
  ['packed, in order', { sample_packing: true, shuffle: false }],
  ['by length', { group_by_length: true }],
  ['in order', { shuffle: false }],
];
const ids = (batches: Batch[]) => batches.flatMap((batch) => firstTokens(batch));
const firstTokens = ({ inputIds, positions }: Batch) => [...inputIds].filter((_, t) => positions[t] === 0).map((id) => id / 1000);

describe.each(settings)('%s', (_, changes) => {
  const chosen = { ...options, ...changes };
  const steps = batchesOf(examples, chosen, 0);

  test('every example occurs once, whole, in one segment', () => {
    const seen: number[] = [];
    for (const { inputIds, positions, segments, examples: count } of steps.flat()) {
      expect(segments.length).toBe(4 * count);
      let expectedStart = 0;
      for (let s = 0; s < count; s++) {
        const [start, end, keyStart, keyEnd] = segments.subarray(4 * s, 4 * s + 4);
        expect([start, keyStart, keyEnd]).toEqual([expectedStart, start, end]);
        expectedStart = end;
        const index = Math.floor(inputIds[start] / 1000);
        expect(inputIds.slice(start, end)).toEqual(examples[index].sequences[0].inputIds);
        expect([...positions.slice(start, end)]).toEqual(Array.from({ length: end - start }, (_, t) => t));
        seen.push(index);
      }
      expect(expectedStart).toBe(inputIds.length);
    }
    expect(seen.sort((a, b) => a - b)).toEqual(examples.map((_, i) => i));
  });

  test('a label is the next token of the same example, and the counts add up', () => {
    let supervised = 0;
    for (const { inputIds, labels, positions, supervised: count } of steps.flat()) {
      labels.forEach((label, t) => {
        if (label === -100) return;
        expect(label).toBe(inputIds[t + 1]);
        expect(positions[t + 1]).toBe(positions[t] + 1);
      });
      expect(labels.filter((label) => label !== -100).length).toBe(count);
      supervised += count;
    }
    const expected = examples.reduce(
      (sum, { sequences: [{ labels }] }) => sum + labels.slice(1).filter((label) => label !== -100).length,
      0,
    );
    expect(supervised).toBe(expected);
  });

  test('steps hold the accumulated micro-batches, and the count is known beforehand', () => {
    expect(steps.slice(0, -1).every((step) => step.length === 3)).toBe(true);
    expect(steps.at(-1)!.length).toBeGreaterThan(0);
    expect(stepsPerEpoch(examples, chosen)).toBe(steps.length);
    expect(batchesOf(examples, chosen, 3).length).toBe(steps.length);
  });

  test('the order depends on seed and epoch only', () => {
    expect(batchesOf(examples, chosen, 0)).toEqual(steps);
    const order = ids(steps.flat());
    for (const other of [batchesOf(examples, chosen, 1), batchesOf(examples, { ...chosen, seed: 8 }, 0)]) {
      if (chosen.shuffle === false) expect(ids(other.flat())).toEqual(order);
      else expect(ids(other.flat())).not.toEqual(order);
    }
  });
});

test('packing keeps to its capacity and wastes little', () => {
  const packed = batchesOf(examples, { ...options, sample_packing: true }, 0).flat();
  const tokens = examples.reduce((sum, example) => sum + lengthOf(example), 0);
  for (const { inputIds } of packed) expect(inputIds.length).toBeLessThanOrEqual(128);
  expect(packed.length).toBe(Math.ceil(tokens / 128));
});

test('first-fit decreasing is what a search from the first batch gives', () => {
  const sorted = [...examples].sort((a, b) => lengthOf(b) - lengthOf(a));
  const expected: Example[][] = [];
  for (const example of sorted) {
    const used = (group: Example[]) => group.reduce((sum, example) => sum + lengthOf(example), 0);
    const fitting = expected.find((group) => used(group) + lengthOf(example) <= 128);
    if (fitting) fitting.push(example);
    else expected.push([example]);
  }
  const packed = batchesOf(examples, { ...options, sample_packing: true, shuffle: false }, 0).flat();
  expect(packed).toEqual(expected.map(concatenate));
});

test('group_by_length puts similar lengths together', () => {
  const spread = (batches: Batch[]) =>
    batches.reduce((sum, { segments }) => sum + Math.abs(segments[1] - segments[0] - ((segments[5] ?? 0) - (segments[4] ?? 0))), 0);
  const grouped = batchesOf(examples, { ...options, group_by_length: true }, 0).flat();
  expect(spread(grouped.slice(0, 40))).toBeLessThan(spread(batchesOf(examples, options, 0).flat().slice(0, 40)) / 4);
});

test('packed and unpacked have the same tokens, labels and positions', () => {
  const [packed] = [concatenate(examples.slice(0, 5))];
  const single = examples.slice(0, 5).map((example) => concatenate([example]));
  for (const key of ['inputIds', 'labels', 'positions'] as const) {
    expect([...packed[key]]).toEqual(single.flatMap((batch) => [...batch[key]]));
  }
});

test('an example longer than a packed batch is refused by its row', () => {
  expect(() => batchesOf(examples, { ...options, sequence_len: 8, sample_packing: true }, 0)).toThrow(
    /^data\.jsonl:\d+: .* packed batch 16/,
  );
});

test.each([0, -1, 1.5, Number.NaN])('micro_batch_size %s is refused', (size) => {
  expect(() => batchesOf(examples, { ...options, micro_batch_size: size }, 0)).toThrow(/not a batch size/);
});

describe('validation split', () => {
  test.each([
    [0.2, 19],
    [10, 10],
    [0, 0],
  ])('%s of 97 are %s, the same for the same seed', (size, count) => {
    const { train, validation } = splitExamples(examples, size, 1);
    expect(validation.length).toBe(count);
    expect([...train, ...validation].map(({ row }) => row).sort()).toEqual(examples.map(({ row }) => row).sort());
    expect(splitExamples(examples, size, 1)).toEqual({ train, validation });
    if (count > 0) expect(splitExamples(examples, size, 2).validation).not.toEqual(validation);
  });

  test.each([97, 98, 0.999, -1, Number.NaN, 3.5])('val_set_size %s is refused', (size) => {
    expect(() => splitExamples(examples, size, 1)).toThrow(/val_set_size/);
  });
});

test.each([false, true])('the sequences of an example stay together and in order (packed %s)', (sample_packing) => {
  const pairs = Array.from({ length: 20 }, (_, i): Example => {
    const [chosen, rejected] = [examples[2 * i], examples[2 * i + 1]];
    return { sequences: [...chosen.sequences, ...rejected.sequences], row: chosen.row };
  });
  const seen: number[] = [];
  const all = batchesOf(pairs, { ...options, sequence_len: 128, sample_packing }, 0).flat();
  for (const { inputIds, positions, segments, exampleOf, examples: count } of all) {
    expect(segments.length).toBe(8 * count);
    expect([...exampleOf]).toEqual(Array.from({ length: 2 * count }, (_, s) => Math.floor(s / 2)));
    for (let s = 0; s < 2 * count; s += 2) {
      const names = [s, s + 1].map((each) => Math.floor(inputIds[segments[4 * each]] / 1000));
      expect(names[1]).toBe(names[0] + 1);
      expect(positions[segments[4 * (s + 1)]]).toBe(0);
      seen.push(names[0] / 2);
    }
  }
  expect(seen.sort((a, b) => a - b)).toEqual(pairs.map((_, i) => i));
});
