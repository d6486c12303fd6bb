import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { bind } from '../../src/data/jinja/operations.js';
import { fromJson, str } from '../../src/data/jinja/print.js';
import { Refusal, Template } from '../../src/data/jinja/template.js';
import { Func, type Value } from '../../src/data/jinja/values.js';
import { strftime } from '../../src/data/strftime.js';
import { type JsonObject, parseExactJson } from '../../src/util/json.js';

/** What tools/golden/jinja.py writes: snippets and what jinja2 makes of them, null where it fails. */
interface Golden {
  variables: string;
  snippets: [snippet: string, text: string | null][];
  dates: { format: string; times: [time: number[], text: string][] };
  combined: Record<'values' | 'operators' | 'filters' | 'tests' | 'texts' | 'methods', string[]> & { results: (string | null)[] };
}

const golden: Golden = JSON.parse(readFileSync(new URL('../golden/jinja.json', import.meta.url), 'utf8'));

function render(snippet: string, json: JsonObject = {}): string | null {
  const variables: Record<string, Value> = Object.fromEntries(Object.entries(json).map(([name, value]) => [name, fromJson(value)]));
  variables.raise_exception = new Func('raise_exception', (args) => {
    throw new Refusal(str(bind('raise_exception', ['message'], args)[0]));
  });
  try {
    return new Template(snippet).render(variables).text;
  } catch (error) {
    expect(error).toBeInstanceOf(Error);
    return null;
  }
}

test.each(golden.snippets)('%s', (snippet, text) => {
  expect(render(snippet, parseExactJson(golden.variables, 'variables') as JsonObject)).toBe(text);
});

/** The expressions in the order of the generator. */
function combinations(): string[] {
  const { values, operators, filters, tests, texts, methods } = golden.combined;
  return [
    ...operators.flatMap((operator) => values.flatMap((left) => values.map((right) => `{{ ${left} ${operator} ${right} }}`))),
    ...filters.flatMap((name) => values.map((value) => `{{ (${value}) | ${name} }}`)),
    ...tests.flatMap((name) => values.map((value) => `{{ (${value}) is ${name} }}`)),
    ...methods.flatMap((name) => texts.map((value) => `{{ (${value}.${name},) }}`)),
  ];
}

test('every operator, filter, test and method of texts on values of every kind', () => {
  const snippets = combinations();
  expect(snippets).toHaveLength(golden.combined.results.length);
  const ours = snippets.map((snippet) => [snippet, render(snippet)]);
  const theirs = snippets.map((snippet, i) => [snippet, golden.combined.results[i]]);
  expect(ours.filter((_, i) => ours[i][1] !== theirs[i][1])).toEqual(theirs.filter((_, i) => ours[i][1] !== theirs[i][1]));
});

test('dates are written as strftime writes them', () => {
  const { format, times } = golden.dates;
  expect(times.map(([[year, month, ...rest]]) => strftime(new Date(year, month - 1, ...(rest as [number])), format))).toEqual(
    times.map(([, text]) => text),
  );
});
