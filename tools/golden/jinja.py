"""Snippets of templates rendered by jinja2 in the environment of transformers: test/golden/jinja.json.

For each snippet its text, or null where Python raises an error or writes where something lies in memory. `SNIPPETS` are written by
hand; the others combine values with every operator, filter, test and method of texts. Variables are kept as the text of
JSON, in which 20.0 is not 20. `dates` are times in the words of `strftime`.
Needs the packages of requirements.txt and jinja2==3.1.6.
"""
import datetime
import json
import pathlib
import re
import sys
import warnings

from transformers.utils.chat_template_utils import _compile_jinja_template

warnings.simplefilter("ignore")
OUT = pathlib.Path(__file__).parents[2] / "test" / "golden" / "jinja.json"

VARIABLES = r"""{
  "n": 7, "f": 2.5, "w": 20.0, "tiny": 1e-07, "big": 2512292042121000001, "huge": 1e22, "neg": -3, "t": true, "u": null,
  "s": "Hello wörld 😀!",
  "empty": "", "quotes": "it's \"so\"\n", "list": [3, 1, 2], "words": ["b", "A", "c"], "mixed": [1, "x", null, true, 2.0, [], {}],
  "d": {"b": 1, "a": [true, null], "10": "ten", "9": "nine", "items": "key"}, "nest": {"x": {"y": [{"z": "deep"}]}},
  "users": [{"name": "Zoe", "age": 30, "on": true}, {"name": "adam", "age": 25, "on": false}, {"name": "Bea", "age": 30}],
  "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "U"},
    {"role": "assistant", "content": "A", "tool_calls": []}],
  "html": "<a href='x'>T&amp;</a>", "lines": "one\ntwo\n\nthree\n"
}"""

SNIPPETS = [
    # Literals and printing
    "{{ true }} {{ True }} {{ false }} {{ none }} {{ None }}",
    "{{ [true, none, 1, 2.0, 'x'] }}",
    "{{ {'a': none, 1: 'b', true: 2} }}",
    "{{ (1,) }} {{ () }} {{ (1, 'a') }} {{ 1, 2 }}",
    "{{ 1e3 }} {{ 1.0 }} {{ 1e16 }} {{ 1e15 }} {{ 123456789012345678 }} {{ 0.1 + 0.2 }} {{ 1e-5 }} {{ 0.0001 }} {{ 1_000 }} "
    "{{ 0x1f }} {{ 0b101 }} {{ 0o17 }}",
    "{{ 5e-324 }} {{ 1.7976931348623157e308 }} {{ -0.0 }} {{ 1e400 }}",
    "{{ n }} {{ f }} {{ w }} {{ tiny }} {{ big }} {{ huge }} {{ neg }} {{ t }} {{ u }}",
    "{{ mixed }}",
    "{{ d }}",
    "{{ users }}",
    "{{ [s, quotes, empty] }}",
    "{{ ['a\\tb', 'c\\\\d', '\\x00\\x7f\\xa0é\\u200b\\U0001f600'] }}",
    "{{ 'a' 'b' \"c\" }} {{ 'a\\nb' }} {{ '\\d\\'' }} {{ '\\101\\x41' }}",
    "{{ 'line \\\ncontinued' }}",
    "{{ [[], [[]], {}, {'a': {}}] }}",
    "{{ range(5) }} {{ range(1, 9, 2) }} {{ range(3) | list }} {{ range(5, 0, -2) | list }}",
    "{{ d.keys() }} {{ d.values() }}",
    "{{ {'a': 1}.items() }} {{ {}.items() }}",
    "{{ undefined_thing }}|{{ undefined_thing is defined }}|{{ [undefined_thing] }}",
    "{{ namespace(a=1, b='x') }}",
    "{{ dict(a=1, b=[2]) }} {{ dict([('x', 1)]) }} {{ dict.fromkeys('ab', 0) }}",
    # Arithmetic and comparison
    "{{ -7 % 3 }} {{ 7 % -3 }} {{ -7 // 2 }} {{ 7 // -2 }} {{ -7.5 % 2 }} {{ -7.5 // 2 }} {{ 7 / 2 }} {{ 6 / 2 }}",
    "{{ 2 ** 10 }} {{ 2 ** -1 }} {{ 2 ** 0.5 }} {{ -2 ** 2 }} {{ 2 ** 3 ** 2 }} {{ 10 ** 20 }}",
    "{{ big + 1 }} {{ big * big }} {{ big % 10 }} {{ big // 1000 }} {{ 9007199254740993 }} {{ 9007199254740992 + 1 }}",
    "{{ true + true }} {{ true * 3 }} {{ 'ab' * 3 }} {{ [1, 2] * 2 }} {{ 3 * 'x' }} {{ 'x' * -1 }}|",
    "{{ '1' == 1 }} {{ 1 == 1.0 }} {{ 1 == true }} {{ 'a' == 'a' }} {{ none == false }} {{ [] == () }} {{ [1, 2.0] == [1.0, 2] }} "
    "{{ {'a': 1} == {'a': 1.0} }}",
    "{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 1 == 1 != 2 }} {{ 'a' < 'b' }} {{ [1, 2] < [1, 3] }} {{ 'Z' < 'a' }} {{ '\\uffff' < '😀' }}",
    "{{ 1 < 'a' }}",
    "{{ none < 1 }}",
    "{{ 1 / 0 }}",
    "{{ 1 % 0 }}",
    "{{ 'a' + 1 }}",
    "{{ 'a' ~ 1 ~ none ~ true ~ 2.0 }}",
    "{{ [1] + [2] }} {{ (1,) + (2,) }}",
    "{{ not none }} {{ not 'a' }} {{ 0 or 'x' }} {{ 1 and 'y' }} {{ '' or none }} {{ [] and 1 }}",
    "{{ 'a' in 'abc' }} {{ 'z' not in 'abc' }} {{ 1 in [1.0] }} {{ 'b' in d }} {{ 'x' in undefined_thing }} {{ '' in 'a' }}",
    "{{ 1 in 'abc' }}",
    "{{ 1 in none }}",
    "{{ 1 in 5 }}",
    "{{ 'yes' if n > 3 else 'no' }} {{ 'only' if false }}|",
    "{{ 1 if 0 else 2 if 0 else 3 }}",
    "{{ +n }} {{ -n }} {{ - -n }} {{ not not n }} {{ -'a' }}",
    "{{ (n, f) | tojson }} {{ n - 1 - 1 }} {{ 2 - 1 ~ 'a' }} {{ 10 - 2 * 3 }}",
    "{{ -1 | abs }} {{ (-1) | abs }} {{ 2.5 | int }} {{ 1.5 + 1.5 }}",
    "{{ undefined_thing == none }} {{ undefined_thing == other_thing }} {{ none is none }} {{ undefined_thing is none }}",
    "{{ undefined_thing + 1 }}",
    "{{ undefined_thing.x }}",
    "{{ undefined_thing() }}",
    "{{ nest.a.b }}",
    "{{ nest.a }}|",
    # Texts: length, subscripts, slices
    "{{ s | length }} {{ '😀' | length }} {{ s[12] }} {{ s[-2:] }} {{ s[::-1] }} {{ s[::2] }} {{ s[1:4] }} {{ s[-100:3] }} "
    "{{ s[5:2] }}|",
    "{{ 'abc'[5] }}|{{ 'abc'[5] is defined }} {{ 'abc'[-1] }} {{ 'abc'['upper']() }} {{ 'abc'.0 }}",
    "{% for c in 'a😀b' %}[{{ c }}]{% endfor %}",
    "{{ list[1:] }} {{ list[::-1] }} {{ list[-1] }} {{ list[10] }}|{{ list[:-1] }} {{ list[true] }} {{ range(10)[2:5] }} "
    "{{ (1, 2, 3)[1:] }}",
    "{{ list['a'] }}|{{ d['b'] }} {{ d.b }} {{ d['nope'] }}|{{ d[1] }}|",
    "{{ {1: 'one', 2: 'two'}[1] }} {{ {1: 'one'}[1.0] }} {{ {(1, 2): 'pair'}[(1, 2)] }} {{ {'1': 'text'}[1] }}|",
    "{{ d.items }}|",
    "{{ d['items'] }} {{ d.items() | list }}",
    "{{ nest.x.y[0].z }} {{ nest['x']['y'][0]['z'] }}",
    "{{ list[[1]] }}|",
    "{{ 'abc'[1:'x'] }}|",
    "{{ 'abc'[::0] }}|",
    "{{ 'a.b.c'.split('.') }} {{ ' a  b '.split() }} {{ 'a.b.c'.split('.', 1) }} {{ 'a.b.c'.rsplit('.', 1) }} "
    "{{ ' a b c '.split(none, 1) }} {{ 'a b c'.rsplit(none, 1) }} {{ ''.split() }} {{ ''.split(',') }} "
    "{{ 'abc'.split('b', maxsplit=0) }}",
    "{{ 'xxaxx'.strip('x') }} {{ 'xxaxx'.lstrip('x') }} {{ 'xxaxx'.rstrip('x') }} "
    "[{{ ' \\t\\n a \\u3000'.strip() }}] {{ '\\ufeffa'.strip() | length }} {{ '😀a😀'.strip('😀') }}",
    "{{ 'hello'.find('l') }} {{ 'hello'.rfind('l') }} {{ 'hello'.find('z') }} {{ 'hello'.find('l', 3) }} {{ '😀a'.find('a') }} "
    "{{ 'hello'.index('e') }} {{ 'hello'.count('l') }} {{ 'aaa'.count('aa') }} {{ 'abc'.count('') }}",
    "{{ 'hello'.index('z') }}",
    "{{ 'a-b'.replace('-', '+') }} {{ 'aaa'.replace('a', 'b', 2) }} {{ 'abc'.replace('', '.') }} {{ 'a'.replace('a', '$&') }}",
    "{{ ','.join(['a', 'b']) }} {{ ''.join('abc') }} {{ '-'.join({'x': 1, 'y': 2}) }}",
    "{{ ','.join([1]) }}",
    "{{ 'hello world'.title() }} {{ \"they're\".title() }} {{ 'hELLO'.capitalize() }} {{ 'ßx'.capitalize() }} "
    "{{ 'Hi'.swapcase() }} {{ 'ß'.upper() }} {{ 'ÀÉ'.lower() }} {{ 'ΑΣ'.lower() }} {{ 'Straße'.casefold() }}",
    "{{ 'abc'.startswith('a') }} {{ 'abc'.endswith(('x', 'c')) }} {{ 'abc'.startswith('b', 1) }} {{ 'abc'.removeprefix('a') }} "
    "{{ 'abc'.removesuffix('c') }} {{ 'abc'.removesuffix('') }}",
    "{{ 'a=b=c'.partition('=') }} {{ 'a=b=c'.rpartition('=') }} {{ 'abc'.partition('x') }} {{ 'abc'.rpartition('x') }}",
    "{{ '12'.isdigit() }} {{ 'a1'.isalnum() }} {{ 'ab'.isalpha() }} {{ ''.isalpha() }} {{ '½'.isnumeric() }} {{ '²'.isdigit() }} "
    "{{ 'ab'.islower() }} {{ 'AB1'.isupper() }} {{ ' '.isspace() }} {{ 'Ab C'.istitle() }} {{ 'a_1'.isidentifier() }} "
    "{{ 'é'.isascii() }}",
    "{{ '7'.zfill(3) }} {{ '-7'.zfill(4) }} "
    "[{{ 'ab'.center(5) }}] [{{ 'ab'.center(6, '*') }}] [{{ 'ab'.ljust(4) }}] [{{ 'ab'.rjust(4, '.') }}] [{{ 'a\\tb'.expandtabs(4)"
    " }}]",
    "{{ 'a\\nb\\r\\nc\\x0bd'.splitlines() }} {{ 'a\\nb'.splitlines(true) }} {{ '\\n'.splitlines() }}",
    "{{ list.index(1) }} {{ list.count(3) }} {{ list.copy() }} {{ (1, 2).index(2) }}",
    "{{ d.get('b') }} {{ d.get('zz') }} {{ d.get('zz', 5) }} {{ d.copy() == d }}",
    "{{ list.append(1) }}",
    "{{ d.update({'x': 1}) }}",
    "{{ d.pop('b') }}",
    "{{ list.append is defined }} {{ d.update is defined }} {{ s.__class__ is defined }} {{ s.__class__ }}|",
    "{{ s.foo }}|{{ s.foo is defined }} {{ n.foo is undefined }} {{ none.foo is undefined }}",
    "{{ s.upper }}",
    "{{ (5).bit_length() }} {{ (2.0).is_integer() }} {{ (5).real }} {{ n.numerator }}",
    # Formats
    "{{ '%s and %r' % ('a', 'b') }} {{ '%d %i' % (3.7, true) }} {{ '%5.2f|%-6s|%06.1f|%+d' % (3.14159, 'ab', 2.25, 5) }} "
    "{{ '%x %X %#x %o' % (255, 255, 255, 8) }} {{ '%e %g %g %g' % (12345.678, 0.0001, 1e-5, 1234567.0) }} {{ '%%' % () }} "
    "{{ '%c%c' % ('a', 98) }}",
    "{{ '%s' % none }} {{ '%s' % [1, 2] }} {{ '%(a)s-%(b)d' % {'a': 'x', 'b': 2} }} {{ '%.2s' % 'abc' }} {{ '%*d' % (5, 42) }} "
    "{{ '%s' % (1,) }}",
    "{{ '%d' % 'a' }}",
    "{{ '%s %s' % 'a' }}",
    "{{ 'a' % 'b' }}",
    "{{ '%s, %s!' | format('Hi', 'you') }} {{ '%(x)s' | format(x=5) }}",
    "{{ '{} {}'.format('a', 1) }} {{ '{1}{0}'.format('a', 'b') }} {{ '{x!r:>6}'.format(x='y') }} {{ '{:.3f}'.format(2) }} "
    "{{ '{:,}'.format(1234567) }} {{ '{:>5}|{:<5}|{:^5}|{:*^7}'.format(1, 'a', 'b', 'c') }} {{ '{{}}'.format() }}",
    "{{ '{0.role} {0[content]}'.format(messages[0]) }} {{ '{:{w}}|'.format('x', w=4) }} {{ '{:08.3f}|{:+}|{:x}|{:#b}|{:%}|{:.1%}"
    "|{:e}'.format(3.14159, 5, 255, 5, 0.25, 0.256, 1234.5) }} {{ '{:d}'.format(true) }} {{ '{}'.format(true) }} "
    "{{ '{:g} {:g} {}'.format(1e10, 0.5, 1e10) }}",
    "{{ '{'.format() }}",
    "{{ '{} {}'.format(1) }}",
    "{{ '{:.2f} {:.0f} {:.0f} {:.1f} {:.3e}'.format(2.675, 0.5, 1.5, 0.25, 12345) }} {{ '%.0f %.0f' % (2.5, 3.5) }}",
    # Statements
    "{% for x in list %}{{ loop.index }}/{{ loop.length }}:{{ x }}{{ ',' if not loop.last }}{% endfor %}",
    "{% for x in list %}{{ loop.first }} {{ loop.revindex }} {{ loop.revindex0 }} {{ loop.previtem }} "
    "{{ loop.nextitem }};{% endfor %}",
    "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for k in d %}{{ k }} {% endfor %}",
    "{% for a, b in [(1, 2), [3, 4]] %}{{ a + b }} {% endfor %}",
    "{% for (a, (b, c)) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}",
    "{% for a, b in [(1, 2, 3)] %}{{ a }}{% endfor %}",
    "{% for a, b in ['xy'] %}{{ b }}{{ a }}{% endfor %}",
    "{% for x in none %}{{ x }}{% endfor %}",
    "{% for x in 5 %}{% endfor %}",
    "{% for x in undefined_thing %}x{% else %}none{% endfor %}",
    "{% for x in [] %}x{% else %}empty{% endfor %}",
    "{% for x in range(6) if x % 2 %}{{ loop.index }}{{ x }}{{ loop.last }} {% else %}no{% endfor %}",
    "{% for x in range(5) %}a{{ x }}{% if x == 1 %}{% continue %}{% endif %}b{% if x == 3 %}c{% break %}{% endif %}{% endfor %}",
    "{% for x in [1] %}{% continue %}{% else %}E{% endfor %}|{% for x in [1] %}{% break %}{% else %}F{% endfor %}",
    "{% for x in list %}{% for y in words %}{{ loop.index }}{{ y }}{% endfor %}{{ loop.index }};{% endfor %}",
    "{% for x in list %}{{ loop.cycle('a', 'b') }}{{ loop.changed(x > 1) }} {% endfor %}",
    "{% for x in list %}{{ loop }}{% endfor %}",
    "{% for x in [[1, [2]], 3] recursive %}{{ loop.depth }}{% if x is iterable %}({{ loop(x) }}){% else %}{{ x }}{% endif %}"
    "{% endfor %}",
    "{% for x in list | reverse %}{{ loop.length }}{{ x }}{{ loop.last }}{% endfor %}",
    "{% for x in 'ab', 'cd' %}{{ x }},{% endfor %}",
    "{% set x = 1 %}{% for i in list %}{% set x = x + i %}{{ x }} {% endfor %}{{ x }}",
    "{% set ns = namespace(x=0) %}{% for i in list %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }} {{ ns['x'] }} {{ ns.nope }}|",
    "{% set ns = namespace(_x=1) %}",
    "{% set d.x = 1 %}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set a, b = b, a %}{{ a }}{{ b }}",
    "{% set x %}a{{ n }}{% set y = 5 %}{% endset %}[{{ x }}]{{ y is defined }}",
    "{% set x | upper | replace('A', 'B') %}abc{% endset %}{{ x }}",
    "{% if n > 5 %}big{% elif n > 3 %}mid{% else %}small{% endif %}",
    "{% if [] %}a{% elif {} %}b{% elif '' %}c{% elif 0.0 %}d{% elif none %}e{% elif range(0) %}f{% else %}g{% endif %}",
    "{% if x is not defined %}{% set x = 'set' %}{% endif %}{{ x }}",
    "{% with a = 1, b = n %}{{ a }}{{ b }}{% set n = 9 %}{{ n }}{% endwith %}{{ n }}{{ a is defined }}",
    "{% with a = 1 %}{% with a = 2, b = a %}{{ a }}{{ b }}{% endwith %}{% endwith %}",
    "{% macro f(a, b=2, c='x') %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ f(1) }} {{ f(1, c=3) }} {{ f() }} {{ f(b=1, a=0) }}",
    "{% macro f() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1, 2, k='v') }}",
    "{% macro f(a) %}{{ a }}{% endmacro %}{{ f(1, 2) }}",
    "{% macro f(a) %}{{ a }}{% endmacro %}{{ f(z=2) }}",
    "{% macro f(a) %}[{{ caller() }}{{ a }}]{% endmacro %}{% call f(1) %}inside{% endcall %}",
    "{% macro f(l) %}{% for i in l %}{{ caller(i) }};{% endfor %}{% endmacro %}{% call(x) f(list) %}<{{ x }}>{% endcall %}",
    "{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}",
    "{% macro f() %}{{ y }}{% endmacro %}{% set y = 1 %}{{ f() }}{% set y = 2 %}{{ f() }}",
    "{% macro f() %}x{% endmacro %}{{ f }} {{ f.name }} {{ f.arguments }}",
    "{% macro f(a, b=a) %}{{ b }}{% endmacro %}{{ f(5) }}",
    "{{ f() }}{% macro f() %}{% endmacro %}",
    "{% macro f() %}{% set q = 3 %}{{ q }}{% endmacro %}{{ f() }}{{ q is defined }}",
    "{% macro f() %} a {% endmacro %}[{{ f() | trim }}]{{ f() is string }}",
    "{% filter upper %}abc{{ n }}{% endfilter %}",
    "{% filter replace('a', 'b') | upper %}aXa{% endfilter %}",
    "{% raw %}{{ n }} {% if %}{% endraw %}|",
    "a\n{% raw %}\n  {{ x }}\n{% endraw %}\nb",
    "{# comment #}a{#- c -#} b",
    "{% print n, s %}",
    "{% generation %}a{{ n }}{% set z = 1 %}{% endgeneration %}{{ z is defined }}",
    "{% autoescape false %}{{ html }}{% endautoescape %}",
    "{% if false %}{{ 1 | nofilter }}{% endif %}ok",
    "{{ 1 | nofilter }}",
    "{{ 1 is notest }}",
    "{{ raise_exception('no') }}",
    "{% for x in range(3) %}{% set f %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endset %}{{ f }}{% endfor %}",
    # White space
    "a\n  {% if true %}\n  b\n  {% endif %}\nc",
    "a\n  {%- if true -%}\n  b\n  {%- endif -%}\nc",
    "  {%+ if true %}x{% endif %}\n\n y",
    "a {{- n -}} b",
    "a\n {{ n }}\n b\n",
    "x\n\n",
    "x\n\n\n",
    "{% if true +%}\n a{% endif %}",
    "a\r\nb\rc",
    "  {# c #}\n x",
    "a {# c #} b\n",
    "{% set x = 1 -%}   \n\n  y",
    "  {% set x = 1 %}  \n y",
    "\t{% if true %}\t\n\tz\t{% endif %}\t\n",
    "{%- for x in list %}\n  {{ x }}\n{%- endfor %}\n",
    "a{% if true %} {% endif %}b",
    "{{ '{%' }} { { } } {{ '}}' }} {{ {'a': {'b': 1}} }}",
    "{%if true%}x{%endif%}",
    "{{n}}{{-n}}{{ - n }}",
    # Filters
    "{{ 'a,b' | replace(',', ';') }} {{ 5 | replace('5', 'x') }} {{ 'aaa' | replace('a', 'b', 1) }} {{ none | replace('N', 'n') }}",
    "{{ list | sort }} {{ words | sort }} {{ words | sort(case_sensitive=true) }} {{ list | sort(reverse=true) }} "
    "{{ users | sort(attribute='age') | map(attribute='name') | list }} "
    "{{ users | sort(attribute='age,name') | map(attribute='name') | join(',') }}",
    "{{ [1, 'a'] | sort }}",
    "{{ list | join }} {{ list | join(', ') }} {{ users | join('-', attribute='name') }} {{ 'abc' | join('.') }} "
    "{{ [none, true] | join(' ') }}",
    "{{ users | map(attribute='age') | sum }} {{ users | sum(attribute='age') }} {{ [1.5, 2] | sum }} {{ [] | sum }} "
    "{{ [[1], [2]] | sum(start=[]) }} {{ ['a'] | sum }}",
    "{{ users | groupby('age') }}",
    "{% for age, us in users | groupby('age') %}{{ age }}:{{ us | map(attribute='name') | list }};{% endfor %}",
    "{{ (users | groupby('age'))[0].grouper }} {{ (users | groupby('age'))[1].list | length }} "
    "{{ ['a', 'B', 'A'] | groupby(0) | list }}",
    "{{ list | min }} {{ list | max }} {{ words | min }} {{ users | max(attribute='age') }} {{ [] | min }}|",
    "{{ list | first }} {{ list | last }} {{ [] | first }}|{{ 'abc' | first }} {{ d | first }} {{ d | last }}",
    "{{ list | reverse | list }} {{ 'a😀c' | reverse }} {{ d | reverse | list }}",
    "{{ [1, 1.0, 'a', 'A', true] | unique | list }} {{ users | unique(attribute='age') | map(attribute='name') | list }}",
    "{{ range(7) | batch(3) | list }} {{ range(7) | batch(3, 0) | list }} {{ range(7) | slice(3) | list }} "
    "{{ range(7) | slice(3, 'x') | list }}",
    "{{ users | selectattr('on') | map(attribute='name') | list }} {{ users | selectattr('age', 'gt', 26) | list | length }} "
    "{{ users | rejectattr('on') | list | length }} {{ users | selectattr('on', 'defined') | list | length }} "
    "{{ list | select('odd') | list }} {{ mixed | select | list }} {{ mixed | reject('none') | list }}",
    "{{ ['a', ' b '] | map('trim') | map('upper') | list }} {{ users | map(attribute='zip', default='-') | list }} "
    "{{ list | map('string') | list }} {{ [[1, 2], [3]] | map('first') | list }} {{ [[1, 2]] | map(attribute=1) | list }}",
    "{{ list | map('nofilter') }}",
    "{{ list | map('nofilter') | list }}",
    "{{ list | select('odd') }}",
    "{{ (list | select('odd')) is iterable }} {{ (list | select('odd')) | length }}",
    "{% set g = list | select('odd') %}{% for x in g %}{{ x }}{% endfor %}|{% for x in g %}{{ x }}{% endfor %}"
    "|{{ 'y' if [] | select else 'n' }}",
    "{{ 2.5 | round }} {{ 3.5 | round }} {{ 2.675 | round(2) }} {{ 1234 | round(-2) }} {{ 5 | round }} "
    "{{ 2.4 | round(0, 'ceil') }} {{ 2.45 | round(1, 'floor') }} {{ 42.55 | round | int }} {{ -2.5 | round }}",
    "{{ '42' | int }} {{ '42.9' | int }} {{ 'x' | int }} {{ 'x' | int(5) }} {{ '0x1f' | int(base=16) }} {{ '1f' | int(0, 16) }} "
    "{{ none | int }} {{ ' 7 ' | int }} {{ true | int }} {{ '1_000' | int }} {{ '٣' | int }}",
    "{{ '1.5' | float }} {{ 'x' | float }} {{ 3 | float }} {{ 'inf' | float }} {{ '1e3' | float }} {{ none | float }} "
    "{{ '-' | float(2) }}",
    "{{ -3 | abs }} {{ neg | abs }} {{ 'a' | abs }}",
    "{{ 'ab' | center(6) }}| {{ 'hello world' | title }} {{ 'a-b (c' | title }} {{ 'hELLO' | capitalize }} "
    "{{ 'a b' | wordcount }} {{ s | upper }} {{ none | upper }} {{ undefined_thing | upper }}|",
    "{{ lines | indent }}|{{ lines | indent(2, true) }}|{{ lines | indent('> ', blank=true) }}|{{ '' | indent }}|{{ 'a' | indent(f"
    "irst=true) }}",
    "{{ 'foo bar baz qux' | truncate(9) }} {{ 'foo bar baz qux' | truncate(9, true) }} {{ 'foo bar baz qux' | truncate(11) }} "
    "{{ 'foo bar baz qux' | truncate(11, false, '..', 0) }}",
    "{{ u | default('x') }} {{ undefined_thing | default('x') }} {{ '' | default('x', true) }} "
    "{{ undefined_thing | d }}| {{ nest.a | default(nest.x) }} {{ none | default('x', boolean=true) }}",
    "{{ d | dictsort }} {{ d | dictsort(by='key', reverse=true) | first }} {{ {'b': 1, 'A': 2} | dictsort }} "
    "{{ {'b': 1, 'A': 2} | dictsort(true) }} {{ {'b': 1, 'A': 2} | dictsort(by='value') }}",
    "{{ d | items | list }} {{ undefined_thing | items | list }} {{ d | list }} {{ 'ab' | list }} {{ d | length }} {{ d | count }}",
    "{{ html | e }} {{ html | escape }} {{ html | striptags }} {{ html | safe }} {{ html | urlencode }} "
    "{{ {'a b': 'c/d', 'x': 1} | urlencode }} {{ {'class': 'a', 'id': none, 'n': 5} | xmlattr }} {{ html | forceescape }}",
    "{{ ('<b>' | safe) ~ '<i>' }} {{ '<' | e | upper }} {{ '<' | e | length }} {{ ('<' | safe) is string }} "
    "{{ ('<' | safe) == '<' }} {{ ['<' | safe] }}",
    "{{ 1000 | filesizeformat }} {{ 1 | filesizeformat }} {{ 123456789 | filesizeformat }} {{ 2048 | filesizeformat(true) }}",
    "{{ users[0] | attr('name') }}|{{ s | attr('upper') is defined }} {{ d | attr('items') is defined }}",
    "{{ ' x ' | trim }} {{ 'xax' | trim('x') }} {{ none | trim }} {{ 5 | string + 'a' }} {{ list | string }} {{ none | string }} "
    "{{ 1.0 | string }}",
    "{{ mixed | tojson }} {{ s | tojson }} {{ d | tojson }} {{ html | tojson }} {{ quotes | tojson }} {{ 1.0 | tojson }} "
    "{{ tiny | tojson }} {{ big | tojson }} {{ none | tojson }} {{ (1, 2) | tojson }} "
    "{{ {1: 2, none: 3, true: 4, 1.5: 5} | tojson }}",
    "{{ d | tojson(indent=2) }}",
    "{{ d | tojson(indent=0) }} {{ mixed | tojson(indent='--') }} {{ {'a': []} | tojson(indent=4) }}",
    "{{ d | tojson(separators=(',', ':')) }} {{ s | tojson(ensure_ascii=true) }} {{ {'b': 1, 'a': 2} | tojson(sort_keys=true) }} "
    "{{ d | tojson(indent=1, separators=(' ,', ' : ')) }}",
    "{{ undefined_thing | tojson }}",
    "{{ range(2) | tojson }}",
    "{{ d.items() | tojson }}",
    "{{ {1: 'a', 'b': 2} | tojson(sort_keys=true) }}",
    "{{ '\\x7f\\u2028\\x01\\b\\f' | tojson }}",
    "{{ {(1, 2): 3} | tojson }}",
    # Tests
    "{{ 3 is odd }} {{ 4 is even }} {{ 9 is divisibleby 3 }} {{ 9 is divisibleby(2) }} {{ n is number }} {{ true is number }} "
    "{{ true is integer }} {{ 1.0 is float }} {{ 1 is float }} {{ 'a' is string }} {{ d is mapping }} {{ list is sequence }} "
    "{{ d is sequence }} {{ 'a' is sequence }} {{ undefined_thing is sequence }} {{ d.items() is sequence }} "
    "{{ list is iterable }} {{ 5 is iterable }} {{ none is none }} {{ true is true }} {{ 1 is true }} {{ false is false }} "
    "{{ true is boolean }}",
    "{{ 1 is eq 1.0 }} {{ 1 is ne 2 }} {{ 3 is gt 2 }} {{ 'a' is in 'abc' }} {{ 1 is in [1] }} {{ 2 is not in [1] }} "
    "{{ n is sameas n }} {{ none is sameas none }} {{ 'abc' is lower }} {{ 'ABC' is upper }} {{ 'x' is callable }} "
    "{{ range is callable }} {{ 'upper' is filter }} {{ 'nope' is filter }} {{ 'odd' is test }} {{ ('<' | safe) is escaped }} "
    "{{ 1 is equalto 1 }}",
    "{{ n is defined and n > 3 }} {{ not n is defined }} {{ n is not defined or true }} {{ x is defined if true else 'b' }}",
    "{{ messages[0].role is defined and messages[0]['role'] == 'system' }}",
    # Calls, globals, namespaces
    "{{ dict(a=1, **{'b': 2}) }} {{ '{} {}'.format(*['x', 'y']) }} {{ range(*[1, 4]) | list }}",
    "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}{{ c.reset() }}{{ c.current }}",
    "{% set j = joiner('|') %}{% for x in list %}{{ j() }}{{ x }}{% endfor %}",
    "{{ namespace is callable }} {{ range(3) is sequence }} {{ range(1000000) }}",
    "{{ messages | map(attribute='role') | join(',') }} {{ messages[-1].tool_calls is defined }} "
    "{{ messages[-1].tool_calls | length }} {{ messages[1:] | length }} {{ (messages | last).content }}",
    "{% for m in messages if m.role != 'system' %}{{ loop.index0 }}{{ m['role'] }}{% endfor %}",
    "{%- if messages[0]['role'] == 'system' -%}{%- set system_message = messages[0]['content'] | trim -%}"
    "{%- set messages = messages[1:] -%}{%- endif -%}{{ system_message }}{{ messages | length }}",
    "{% set ns = namespace(found=false, last=-1) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.found = true %}"
    "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}{{ ns.found }} {{ ns.last }}",
    "{{ messages[0].content.split('x')[-1].lstrip('\\n') }} {{ '</think>' in messages[2].content }} "
    "{{ 'a</think>b'.split('</think>')[-1] }}",
    "{{ 'x' if messages[2].tool_calls else 'y' }} {{ messages[2].get('tool_calls', none) }}",
    "{%- macro render(x, indent=0) -%}{%- if x is mapping -%}{%- for k, v in x | dictsort -%}"
    "{{ ' ' * indent }}{{ k }}:{{ render(v, indent + 1) }}\n{%- endfor -%}{%- elif x is string or x is not iterable -%}"
    "{{ x | tojson }}{%- else -%}[{%- for i in x -%}{{ render(i) }}{{ ', ' if not loop.last }}{%- endfor -%}]{%- endif -%}"
    "{%- endmacro -%}{{ render(d) }}",
]

VALUES = [
    "0", "3", "-2", "2.5", "2.0", "true", "none", "'ab'", "''", "'3'", "[1, 2]", "(1, 2)", "{'a': 1}", "nothing", "10**20", "range(2)",
]
OPERATORS = [
    "+", "-", "*", "/", "//", "%", "~", "==", "!=", "<", ">=", "in", "and", "or",
]
FILTERS = [
    "abs", "capitalize", "count", "default('D')", "e", "first", "float", "indent", "int", "items | list", "join('-')", "last", "length",
    "list", "lower", "max", "min", "reverse | list", "round", "select | list", "sort", "string", "sum", "title", "tojson",
    "tojson(indent=2)", "trim", "unique | list", "upper", "wordcount", "batch(2) | list", "map('string') | list", "dictsort", "round(1)",
    "truncate(5)",
]
TESTS = [
    "boolean", "callable", "defined", "divisibleby 2", "even", "false", "float", "in [3, 'ab']", "integer", "iterable", "lower",
    "mapping", "none", "number", "odd", "sequence", "string", "true", "undefined", "upper",
]
TEXTS = [
    "'Hello World'", "' a  b '", "''", "'ÄÖ ß 😀'", "'aXbXc'", "'12'", "'\\na\\n'",
]
METHODS = [
    "capitalize()", "casefold()", "count('X')", "endswith('c')", "find('b')", "rfind('X')", "isalnum()", "isalpha()", "isdigit()",
    "islower()", "isspace()", "istitle()", "isupper()", "lower()", "lstrip()", "lstrip('aH')", "partition('X')", "replace('X', '--')",
    "rsplit('X', 1)", "rsplit(None, 1)", "rstrip()", "rstrip('c')", "split()", "split('X')", "split(None, 1)", "splitlines()",
    "startswith('a')", "strip()", "swapcase()", "title()", "upper()", "zfill(14)", "center(14, '*')", "ljust(3)", "isidentifier()",
    "isnumeric()",
]


DATE_FORMAT = ("%a|%A|%b|%B|%c|%C|%d|%-d|%_d|%D|%e|%-e|%F|%g|%G|%h|%H|%-H|%I|%-I|%j|%-j|%k|%l|%m|%-m|%M|%n|%p|%P|%r|%R|%S|%t|%T|%u|"
               "%U|%V|%w|%W|%x|%X|%y|%-y|%Y|%z|%Z|%%|%Q|%f|%0e|%_H")


def dates():
    """Days around the ends of years, where weeks are counted in several ways."""
    for year in range(2015, 2031):
        for month, day in ((1, 1), (1, 4), (2, 29 if year % 4 == 0 else 28), (12, 30)):
            time = [year, month, day, (year * day) % 24, day, month]
            yield [time, datetime.datetime(*time).strftime(DATE_FORMAT)]


def combined():
    for operator in OPERATORS:
        for left in VALUES:
            for right in VALUES:
                yield f"{{{{ {left} {operator} {right} }}}}"
    for name in FILTERS:
        for value in VALUES:
            yield f"{{{{ ({value}) | {name} }}}}"
    for name in TESTS:
        for value in VALUES:
            yield f"{{{{ ({value}) is {name} }}}}"
    for name in METHODS:
        for value in TEXTS:
            yield f"{{{{ ({value}.{name},) }}}}"


def render(snippet, variables):
    try:
        text = _compile_jinja_template(snippet).render(**variables)
        return None if re.search("at 0x[0-9a-f]{8}", text) else text
    except Exception as error:  # noqa: BLE001: whatever Python raises, the snippet has no text
        if "--errors" in sys.argv:
            print(repr(snippet), type(error).__name__, error)
        return None


def main():
    variables = json.loads(VARIABLES)
    snippets = [[snippet, render(snippet, variables)] for snippet in SNIPPETS]
    texts = [render(snippet, {}) for snippet in combined()]
    table = {"values": VALUES, "operators": OPERATORS, "filters": FILTERS, "tests": TESTS, "texts": TEXTS, "methods": METHODS}
    golden = {"variables": VARIABLES, "snippets": snippets, "combined": {**table, "results": texts}}
    golden["dates"] = {"format": DATE_FORMAT, "times": list(dates())}
    OUT.write_text(json.dumps(golden, ensure_ascii=False, indent=0) + "\n")
    print(len(snippets), "snippets,", len(texts), "combinations")


main()
