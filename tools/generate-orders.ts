/**
 * Writes the quickstart's data set, examples/orders/train.jsonl (400 rows) and test.jsonl (100 rows): customers' messages to small shops
 * and the order that each holds, as JSON. `node build/tools/generate-orders.js`; the same seed gives the same bytes.
 *
 * What is held out: a triple (item, option, quantity) belongs to training or to the test, never to both, and with it every order made of
 * such triples. Every item, option, quantity, day and way of speaking occurs in training.
 */
import { writeFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { Random } from '#lowrank/util/philox.js';

const seed = 20;
const counts = { train: 400, test: 100 };
/** One triple in so many is held out. */
const heldOutShare = 5;
export const system = 'Turn the order into JSON.';

interface Product {
  one: string;
  many: string;
  options: readonly string[];
  /** The largest number that a customer would ask for; at least `heldOutShare`, so that every option has a number in each part. */
  most: number;
}

const product = (one: string, many: string, most: number, ...options: string[]): Product => ({ one, many, most, options });
const drink = ['small', 'large', 'iced', 'decaf'];
const sizes = ['small', 'medium', 'large'];
const bunch = ['red', 'white', 'yellow', 'pink'];
const ink = ['black', 'blue', 'green'];
const lengths = ['short', 'long'];
const shops: readonly (readonly Product[])[] = [
  [
    product('oat latte', 'oat lattes', 8, ...drink),
    product('flat white', 'flat whites', 8, ...drink),
    product('cappuccino', 'cappuccinos', 8, ...drink),
    product('mocha', 'mochas', 8, ...drink),
    product('blueberry muffin', 'blueberry muffins', 12),
    product('almond croissant', 'almond croissants', 12),
  ],
  [
    product('sourdough loaf', 'sourdough loaves', 6, ...sizes),
    product('rye loaf', 'rye loaves', 6, ...sizes),
    product('cinnamon roll', 'cinnamon rolls', 12),
    product('sesame bagel', 'sesame bagels', 12),
    product('cheesecake', 'cheesecakes', 6, ...sizes),
    product('cherry pie', 'cherry pies', 6, ...sizes),
  ],
  [
    product('margherita pizza', 'margherita pizzas', 8, ...sizes),
    product('mushroom pizza', 'mushroom pizzas', 8, ...sizes),
    product('pepperoni pizza', 'pepperoni pizzas', 8, ...sizes),
    product('green salad', 'green salads', 6, ...sizes),
    product('ginger ale', 'ginger ales', 12),
  ],
  [
    product('tulip', 'tulips', 20, ...bunch),
    product('rose', 'roses', 20, ...bunch),
    product('carnation', 'carnations', 20, ...bunch),
    product('orchid', 'orchids', 5, ...bunch),
    product('sunflower', 'sunflowers', 12),
  ],
  [
    product('fountain pen', 'fountain pens', 6, ...ink),
    product('marker', 'markers', 12, ...ink),
    product('notebook', 'notebooks', 12, ...ink),
    product('eraser', 'erasers', 12),
  ],
  [
    product('extension cord', 'extension cords', 6, ...lengths),
    product('tape measure', 'tape measures', 6, ...lengths),
    product('ladder', 'ladders', 5, ...lengths),
    product('light bulb', 'light bulbs', 12),
    product('padlock', 'padlocks', 6),
  ],
];

const words = ['zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine', 'ten', 'eleven', 'twelve'];
const weekdays = ['Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday', 'Sunday'];

/** A way of speaking: {i} stands for the items, {d} for a day such as "on Friday" or "tomorrow"; {I} and {D} begin a sentence. */
interface Frame {
  text: string;
  delivery: boolean;
}
const collect = (text: string): Frame => ({ text, delivery: false });
const deliver = (text: string): Frame => ({ text, delivery: true });

export const frames: readonly Frame[] = [
  collect('Hi, could I get {i}, please?'),
  collect("I'd like {i} for pick-up {d}."),
  collect('{i} please'),
  collect("Hello! I'll come by {d} to collect {i}. Thanks!"),
  collect('Could you put {i} aside for me? I can pop in {d}.'),
  collect('Good morning, I would like to order {i}.'),
  collect("hey, can you get {i} ready? i'll grab them {d}"),
  collect('Do you have {i}? If so, count me in.'),
  collect('We need {i} {d}; my sister will pick everything up.'),
  collect('Just {i} for me, thank you.'),
  collect("Order for collection: {i}. I'm coming {d}."),
  collect('Hi there! {D} I will be in town and would love to take home {i}.'),
  collect('Can I have {i}? Nothing else this time.'),
  collect('Please reserve {i} under the name Novak, I collect {d}.'),
  collect('same as always: {i}. see you {d}'),
  collect("It's my mother's birthday, so {i}, please. I'll fetch it {d}."),
  collect('May I order {i} in advance? I would stop by {d}.'),
  collect('Let me have {i}, and thanks for your patience.'),
  collect('{I}. Pick-up {d}, as we said on the phone.'),
  collect('My usual, and that is {i}.'),
  collect('Would it be possible to collect {i} {d}?'),
  collect('I was told to write here for orders. We want {i}.'),
  collect('need {i}, coming over {d}'),
  collect('Evening! Please keep {i} for me.'),
  deliver('Please deliver {i} {d}.'),
  deliver('Could you bring {i} to our office {d}?'),
  deliver('{I}, delivered {d}, please.'),
  deliver('Hi, do you deliver? I need {i} at home {d}.'),
  deliver('Send {i} to my address, the one you have on file.'),
  deliver("I can't leave the house, so please have {i} brought over {d}."),
  deliver('delivery please: {i}, {d} if you can'),
  deliver('We are having guests. Can your driver drop off {i} {d}?'),
  deliver('Hello, {i} for delivery. The bell is broken, so please knock.'),
  deliver('Would you ship {i} to us? {D} would be best.'),
  deliver('My order for {d}: {i}. Deliver it to the back door.'),
  deliver('hi! {i}, and can someone bring it round {d}?'),
  deliver('Kindly deliver {i} to the school reception.'),
  deliver('I would like {i} sent to my home {d}, thank you very much.'),
  deliver('For the team: {i}. Delivered to the second floor {d}.'),
  deliver('Is delivery free? Either way, I will take {i}, to the door please.'),
  deliver('Can we get {i} delivered? {D} would be perfect.'),
  deliver('Drop {i} at the front desk {d}, please.'),
  deliver('Our courier is ill, so please bring us {i} {d}.'),
  deliver("Please have {i} at my door {d}, I'll pay in cash."),
  deliver('New order with delivery. {I}. Thanks a lot!'),
  deliver("I'm ordering from home again: bring me {i}, please."),
];

export interface Item {
  item: string;
  option: string | null;
  quantity: number;
}
export interface Order {
  items: Item[];
  delivery: boolean;
  day: string | null;
}
export interface Generated {
  row: { messages: { role: string; content: string }[] };
  order: Order;
  frame: number;
}

const pick = <T>(random: Random, list: readonly T[]): T => list[Math.floor(random.next() * list.length)];

/** What decides whether a triple is held out; a sum over its letters, so that neighbouring quantities fall on both sides. */
function isHeldOut({ item, option, quantity }: Item): boolean {
  const letters = [...`${item}/${option}`].reduce((sum, letter) => sum + letter.charCodeAt(0), 0);
  return (letters + 3 * quantity) % heldOutShare === 0;
}

/**
 * Products with each of their options and with none, in a shuffled order that starts again when it is used up: each occurs about as often.
 */
class Deck {
  readonly #shop: readonly Product[];
  #cards: { from: Product; option: string | null }[] = [];

  constructor(shop: readonly Product[]) {
    this.#shop = shop;
  }

  draw(random: Random): { from: Product; option: string | null } {
    if (this.#cards.length === 0) {
      this.#cards = random.shuffle(this.#shop.flatMap((from) => [...from.options, null].map((option) => ({ from, option }))));
    }
    return this.#cards.pop() as { from: Product; option: string | null };
  }
}

function drawItem(random: Random, deck: Deck, test: boolean): { chosen: Item; from: Product } {
  const { from, option } = deck.draw(random);
  for (;;) {
    // Small numbers are what people order most.
    const quantity = 1 + Math.floor(from.most * random.next() ** 1.6);
    const chosen = { item: from.one, option, quantity };
    if (isHeldOut(chosen) === test) return { chosen, from };
  }
}

/** "two large oat lattes", "2x oat latte (large)", "a dozen red roses" … */
function phrase(random: Random, { option, quantity }: Item, { one, many }: Product): string {
  const noun = quantity === 1 ? one : many;
  const described = option === null ? noun : `${option} ${noun}`;
  const style = random.next();
  if (style < 0.08) return `${quantity}x ${one}${option === null ? '' : ` (${option})`}`;
  if (style < 0.14 && option !== null && quantity > 1) return `${number(random, quantity)} ${noun}, ${option} ones`;
  if (quantity === 1) return random.next() < 0.7 ? `${/^[aeiou]/.test(described) ? 'an' : 'a'} ${described}` : `one ${described}`;
  if (quantity === 12 && random.next() < 0.6) return `a dozen ${described}`;
  if (quantity === 6 && random.next() < 0.6) return `half a dozen ${described}`;
  if (quantity === 2 && random.next() < 0.3) return `a couple of ${described}`;
  return `${number(random, quantity)} ${described}`;
}

function number(random: Random, quantity: number): string {
  return quantity < words.length && random.next() < 0.65 ? words[quantity] : String(quantity);
}

function drawDay(random: Random): { day: string; said: string } {
  const choice = random.next();
  if (choice < 0.15) return { day: 'today', said: 'today' };
  if (choice < 0.35) return { day: 'tomorrow', said: 'tomorrow' };
  const day = pick(random, weekdays);
  return { day: day.toLowerCase(), said: `on ${day}` };
}

const capital = (text: string) => text.charAt(0).toUpperCase() + text.slice(1);

/** One row in a given way of speaking. */
function generate(random: Random, decks: readonly Deck[], frame: number, test: boolean): Generated {
  const { text, delivery } = frames[frame];
  const deck = pick(random, decks);
  const first = drawItem(random, deck, test);
  const items = [first];
  if (random.next() < 0.45) {
    const second = drawItem(random, deck, test);
    if (second.from !== first.from) items.push(second);
  }
  const phrases = items.map(({ chosen, from }) => phrase(random, chosen, from));
  // Now and then somebody changes their mind; what counts is the last number.
  if (items.length === 1 && first.chosen.quantity > 2 && random.next() < 0.12) {
    const { from, chosen } = first;
    const described = chosen.option === null ? from.many : `${chosen.option} ${from.many}`;
    phrases[0] = `${number(random, chosen.quantity - 1)} ${described}, no, make that ${number(random, chosen.quantity)}`;
  }
  const { day, said } = drawDay(random);
  const spoken = phrases.join(' and ');
  const message = text
    .replace('{i}', () => spoken)
    .replace('{I}', () => capital(spoken))
    .replace('for {d}', () => `for ${said.replace('on ', '')}`)
    .replace('{d}', () => said)
    .replace('{D}', () => capital(said));
  const order: Order = { items: items.map(({ chosen }) => chosen), delivery, day: /\{[dD]\}/.test(text) ? day : null };
  const messages = [
    { role: 'system', content: system },
    { role: 'user', content: message },
    { role: 'assistant', content: JSON.stringify(order) },
  ];
  return { row: { messages }, order, frame };
}

/** Both parts; no message occurs twice. */
export function generateOrders(): { train: Generated[]; test: Generated[] } {
  const random = new Random(seed, 1);
  const seen = new Set<string>();
  const part = (count: number, test: boolean) => {
    const decks = shops.map((shop) => new Deck(shop));
    const order = random.shuffle(Array.from({ length: count }, (_, i) => i % frames.length));
    return order.map((frame) => {
      for (;;) {
        const generated = generate(random, decks, frame, test);
        const message = generated.row.messages[1].content;
        if (seen.has(message)) continue;
        seen.add(message);
        return generated;
      }
    });
  };
  return { train: part(counts.train, false), test: part(counts.test, true) };
}

export const asLines = (rows: readonly Generated[]) => rows.map(({ row }) => `${JSON.stringify(row)}\n`).join('');

if (process.argv[1] === import.meta.filename) {
  const { train, test } = generateOrders();
  const folder = resolve(import.meta.dirname, '../../examples/orders');
  writeFileSync(resolve(folder, 'train.jsonl'), asLines(train));
  writeFileSync(resolve(folder, 'test.jsonl'), asLines(test));
}
