import { LowrankError } from '../util/errors.js';
import { isObject, type JsonObject, type JsonValue, parseExactJson } from '../util/json.js';

export interface Row {
  value: JsonObject;
  /** `file:line` */
  place: string;
}

/** The rows of a JSON Lines text that comes line by line (with or without CR); blank lines are skipped. `name` is the file's name. */
export async function* readJsonLines(lines: AsyncIterable<string> | Iterable<string>, name: string): AsyncGenerator<Row> {
  let number = 0;
  for await (const line of lines) {
    number++;
    if (line.trim() === '' || line === '\ufeff') continue;
    const place = `${name}:${number}`;
    yield { value: asRow(parseLine(line, name, number), place), place };
  }
}

/** The rows of a JSON text: an array of objects. */
export function readJsonArray(text: string, name: string): Row[] {
  const values = parseExactJson(text, name);
  if (!Array.isArray(values)) {
    throw new LowrankError(`the top level is ${isObject(values) ? 'an object' : 'a single value'}`, {
      place: `${name}:1:1`,
      expected: 'an array of objects, or one object per line',
      mend: 'put the rows into [ ], or write one row per line as .jsonl',
    });
  }
  const lines = elementLines(text);
  return values.map((value, i) => {
    const place = `${name}:${lines[i]}`;
    return { value: asRow(value, place), place };
  });
}

/** The rows of a file's text, JSON Lines or a JSON array, whichever it is: files called .json are often JSON Lines. */
export async function readRows(text: string, name: string): Promise<Row[]> {
  const lines = text.split('\n');
  const first = lines.find((line) => line.trim() !== '' && line !== '\ufeff') ?? '';
  const oneRowPerLine = !/^[\ufeff\s]*\[/.test(first) && (name.endsWith('.jsonl') || isWhole(first));
  if (!oneRowPerLine && text.replace('\ufeff', '').trim() !== '') return readJsonArray(text, name);
  const rows: Row[] = [];
  for await (const row of readJsonLines(lines, name)) rows.push(row);
  return rows;
}

function isWhole(line: string): boolean {
  try {
    parseExactJson(line, '');
    return true;
  } catch {
    return false;
  }
}

function parseLine(line: string, name: string, number: number): JsonValue {
  try {
    return parseExactJson(line, name);
  } catch {
    // Again, for an error that counts lines from the file's beginning.
    return parseExactJson('\n'.repeat(number - 1) + line.replace('\ufeff', ''), name);
  }
}

function asRow(value: JsonValue, place: string): JsonObject {
  if (isObject(value)) return value;
  throw new LowrankError('the row is not an object', {
    place,
    expected: 'an object such as {"messages": […]}',
    mend: 'correct the row, or check that this is the right file',
  });
}

/** The line on which each element of a valid JSON array begins. */
function elementLines(text: string): number[] {
  const lines: number[] = [];
  let line = 1;
  let depth = 0;
  let expecting = false;
  for (let i = 0; i < text.length; i++) {
    const c = text[i];
    if (c === '\n') line++;
    else if (c.trim() !== '' && c !== '\ufeff') {
      if (expecting && c !== ']') lines.push(line);
      expecting = depth <= 1 && (c === '[' ? depth === 0 : c === ',' && depth === 1);
      if (c === '"') {
        while (text[++i] !== '"') if (text[i] === '\\') i++;
      } else if (c === '[' || c === '{') depth++;
      else if (c === ']' || c === '}') depth--;
    }
  }
  return lines;
}
