import { expect, test } from 'vitest';
import { Template } from '../../src/data/jinja/template.js';

const doubled = '{% set m = namespace(x=[]) %}{% for i in range(60) %}{% set m.x = [m.x, m.x] %}{% endfor %}';
const long = '{% set a = "a" * 4000000 %}{% set b = "a" * 4000000 %}';

// Each would take minutes, or gigabytes, if what it does were not counted.
test.each<[string, string, RegExp]>([
  ['printing a list that holds itself twice, sixty times', `${doubled}{{ m.x }}`, /come to an end/],
  ['the same as JSON', `${doubled}{{ m.x | tojson }}`, /come to an end/],
  ['comparing two of them', `${doubled}{% set k = m.x %}${doubled}{{ k == m.x }}`, /come to an end/],
  ['as a key', `${doubled.replaceAll('[m.x, m.x]', '(m.x, m.x)').replace('x=[]', 'x=()')}{{ {m.x: 1} }}`, /text grows|come to an end/],
  [
    'keeping many lists',
    '{% set m = namespace(x=[]) %}{% for i in range(99999) %}{% set m.x = [range(99999) | list, m.x] %}{% endfor %}',
    /list grows/,
  ],
  [
    'keeping many texts',
    '{% set m = namespace(x=[]) %}{% for i in range(99999) %}{% set m.x = ["a" * 1000000, m.x] %}{% endfor %}',
    /text grows/,
  ],
  ['comparing long texts', `${long}{% for i in range(99999) %}{{ a == b }}{% endfor %}`, /text grows/],
  ['searching long texts', `${long}{% for i in range(99999) %}{{ "b" in a }}{% endfor %}`, /text grows/],
  ['searching long texts in long texts', `${long}{{ a.find(a[1:] ~ "b") }}{{ ("b" ~ a[1:]) in a }}`, /searches a long text/],
  ['stripping long texts', '{% set a = " " * 10000000 %}{% for i in range(99999) %}{{ a.strip() }}{% endfor %}', /text grows/],
  ['one long text', '{% set a = "a" * 4194305 %}', /text grows beyond 4194304/],
  ['escaping long texts', '{% set a = "漢" * 4000000 %}{% for i in range(99) %}{% set b = a | urlencode %}{% endfor %}', /text grows/],
  [
    'keeping many small lists',
    '{% set m = namespace(x=[]) %}{% for i in range(40) %}{% set m.x = [range(99999) | batch(1) | list, m.x] %}{% endfor %}',
    /list grows/,
  ],
  ['sorting', '{% set a = range(99999) | list %}{% for i in range(99999) %}{% set b = a | sort %}{% endfor %}', /come to an end/],
  ['a width', '{{ "%999999999d" % 1 }}', /too large/],
  ['a number', '{% set m = namespace(x=9) %}{% for i in range(99) %}{% set m.x = m.x * m.x %}{% endfor %}', /beyond 4300 digits/],
  [
    'a list that holds a list, and so on',
    '{% set m = namespace(x=[]) %}{% for i in range(90000) %}{% set m.x = [m.x] %}{% endfor %}{{ m.x }}',
    /nests/,
  ],
])('%s', (_, source, message) => {
  expect(() => new Template(source).render({})).toThrow(message);
});

test('errors name the line of the template', () => {
  expect(() => new Template('a\n{{ 1 }}\n{{ 1 + "a" }}').render({})).toThrow(/unsupported operand.*\(line 3\)/);
  expect(() => new Template('a\n{% if x %}\n\n{{ ) }}')).toThrow(/^line 4: /);
  expect(() => new Template('{% macro f() %}\n{{ x.y }}{% endmacro %}\n\n{{ f() }}').render({})).toThrow(/'x' is undefined \(line 2\)/);
});

test('white space of any length is read in time that grows with it', () => {
  expect(new Template(' '.repeat(250_000)).render({}).text).toHaveLength(250_000);
  expect(new Template(`{% if x${' '.repeat(200_000)}%}{% endif %}`).render({}).text).toBe('');
  expect(new Template('{# '.repeat(80_000).concat('#}')).render({}).text).toBe('');
});
