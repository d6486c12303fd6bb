import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { expect, test } from 'vitest';
import { asLines, type Generated, generateOrders, type Order } from '../../tools/generate-orders.js';

const folder = resolve(import.meta.dirname, '../../examples/orders');
const orders = generateOrders();
const messageOf = ({ row }: Generated) => row.messages[1].content;
const triplesOf = (rows: readonly Generated[]) =>
  new Set(rows.flatMap(({ order }) => order.items.map(({ item, option, quantity }) => `${item}/${option}/${quantity}`)));

test('the generator reproduces both files byte for byte', () => {
  expect(readFileSync(resolve(folder, 'train.jsonl'), 'utf8') === asLines(orders.train)).toBe(true);
  expect(readFileSync(resolve(folder, 'test.jsonl'), 'utf8') === asLines(orders.test)).toBe(true);
});

test('400 rows to train, 100 held out, no message twice', () => {
  expect([orders.train.length, orders.test.length]).toEqual([400, 100]);
  expect(new Set([...orders.train, ...orders.test].map(messageOf)).size).toBe(500);
});

test('no combination of item, option and quantity is in both parts, but every item and option of the held-out part is trained', () => {
  const [trained, heldOut] = [triplesOf(orders.train), triplesOf(orders.test)];
  expect([...heldOut].filter((triple) => trained.has(triple))).toEqual([]);
  const pairs = (triples: Set<string>) => new Set([...triples].map((triple) => triple.slice(0, triple.lastIndexOf('/'))));
  const trainedPairs = pairs(trained);
  expect([...pairs(heldOut)].filter((pair) => !trainedPairs.has(pair))).toEqual([]);
});

test('every answer is the JSON of its order, which its message holds', () => {
  for (const generated of [...orders.train, ...orders.test]) {
    const order = JSON.parse(generated.row.messages[2].content) as Order;
    expect(order).toEqual(generated.order);
    const message = messageOf(generated).toLowerCase();
    for (const { option } of order.items) expect(message).toContain(option ?? '');
    if (order.day) expect(message).toContain(order.day);
  }
});

test('wording varies: no way of speaking fills more than 6 % of a part', () => {
  for (const part of [orders.train, orders.test]) {
    const counts = new Map<number, number>();
    for (const { frame } of part) counts.set(frame, (counts.get(frame) ?? 0) + 1);
    expect(counts.size).toBeGreaterThan(40);
    expect(Math.max(...counts.values()) / part.length).toBeLessThanOrEqual(0.06);
  }
});
