/**
 * What a template may use. Templates come from outside and are programs: what they compute is counted here, never by the clock, so that
 * a rendering ends in the same way on every machine. Rendering is synchronous, so one count serves the rendering that runs.
 */
export const limits = {
  /** Characters of a template. */
  source: 1 << 18,
  /** Expressions and blocks inside of each other. */
  nesting: 150,
  /** Evaluated expressions and turns of loops. */
  steps: 2e6,
  range: 1e5,
  /** Items of one list, and of all lists, tuples and dicts that a rendering makes; such a thing is itself worth `collection` items. */
  list: 1e6,
  items: 4e6,
  collection: 4,
  /** Characters of one text, and of all texts that a rendering makes. */
  text: 1 << 22,
  characters: 1 << 27,
} as const;

let steps = 0;
let items = 0;
let characters = 0;

export function startMeter(): void {
  steps = items = characters = 0;
}

/** Counts work. Throws where a rendering takes too many steps. */
export function spend(count = 1): void {
  if ((steps += count) > limits.steps) throw new Error('it does not come to an end');
}

/** Counts the items of a collection that is made or copied, and the collection itself. */
export function spendItems(count: number): void {
  if (count > limits.list || (items += count + limits.collection) > limits.items)
    throw new Error(`a list grows beyond ${limits.list} items`);
}

/** Counts characters that are read or made. */
export function spendText(count: number): void {
  if (count > limits.text || (characters += count) > limits.characters) throw new Error(`its text grows beyond ${limits.text} characters`);
}

/** Counts a search of one text in another, which may look at each character of the one for each of the other. */
export function spendSearch(text: string, part: string): void {
  spendText(text.length);
  const comparisons = text.length * part.length;
  if (comparisons > 1 << 30 || (characters += comparisons / 16) > limits.characters)
    throw new Error('it searches a long text in a long text');
}

/** A text that was made. */
export function made(text: string): string {
  spendText(text.length);
  return text;
}

/** A list that was made. */
export function madeList<T>(list: T[]): T[] {
  spendItems(list.length);
  return list;
}
