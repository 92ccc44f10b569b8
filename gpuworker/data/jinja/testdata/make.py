"""Writes cases.jsonl: templates rendered by Jinja2 as transformers sets it up. usage: make.py > cases.jsonl (needs jinja2 3.1)"""
import json
from datetime import datetime

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

NOW = datetime(2025, 1, 2, 3, 4, 5)
VARS = {
    "messages": [{"role": "system", "content": "Be <brief> & \"kind\"."}, {"role": "user", "content": " hi  there\n"}, {"role": "assistant", "content": "ok", "n": 3}],
    "d": {"b": 2, "a": [1, 2.5, None, True, "x'y"], "items": "own"},
    "none": None, "s": "Hello wörld", "nums": [3, 1, 2], "n": 7, "f": 2.5, "empty": [],
}
CASES = r"""
{{ 1 + 2 * 3 - 4 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 1.5 * 2 }}
{{ 'a' ~ 1 ~ none ~ 2.0 ~ true }} {{ 'ab' * 3 }} {{ [1] + [2, 'x'] }} {{ (1, 2) + (3,) }} {{ (1,) }}
{{ d }} {{ d.a }} {{ d['b'] }} {{ d['items'] }} {{ d.get('zz', 'def') }} {{ d.get('b') }} {{ d.missing }}|{{ d.missing is defined }}
{{ d.missing.x }}
{{ nope }}|{{ nope is undefined }}|{{ nope | default('D') }}|{{ '' | default('D') }}|{{ '' | default('D', true) }}|{{ nope.x | default('D') }}
{{ nope + 'x' }}
{{ 'x' + 1 }}
{{ nums[0] }} {{ nums[-1] }} {{ nums[9] }}|{{ nums[1:] }} {{ nums[:-1] }} {{ nums[::-1] }} {{ s[1:4] }} {{ s[-3:] }} {{ s[::-2] }} {{ s[99] }}|
{{ 1 < 2 < 3 }} {{ 1 < 2 > 3 }} {{ 'a' < 'b' }} {{ 1 == 1.0 }} {{ true == 1 }} {{ [1] == [1] }} {{ none == none }} {{ 'a' != 'b' }}
{{ 'ell' in s }} {{ 'b' in d }} {{ 2 in nums }} {{ 5 not in nums }} {{ not 1 in nums }}
{{ 1 in none }}
{{ true and 'x' }} {{ '' or 'y' }} {{ not '' }} {{ 'a' if false }}|{{ 'a' if false else 'b' }} {{ 'a' if n > 5 else 'b' if n > 3 else 'c' }}
{{ -n }} {{ +n }} {{ - f }} {{ -n | abs }} {{ n is odd }} {{ n is not even }} {{ n is divisibleby 7 }} {{ n is divisibleby(3) }}
{% for x in nums %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.previtem }}{{ loop.nextitem }};{% endfor %}
{% for x in empty %}x{% else %}none{% endfor %}{% for x in nums if x > 1 %}{{ x }}{{ loop.index }}{% endfor %}
{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}{% for k in d %}{{ k }}{% endfor %}{% for c in 'abc' %}{{ c }}.{% endfor %}
{% for k, v in d | dictsort %}{{ k }}{% endfor %}{% for x in none %}{% endfor %}
{% for x in nope %}x{% endfor %}ok
{% for x in nums %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% if x == 2 %}{% break %}{% endif %}{% endfor %}
{% set x = 1 %}{% for i in nums %}{% set x = x + i %}{{ x }},{% endfor %}{{ x }}
{% set ns = namespace(x=0, found=false) %}{% for i in nums %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}{{ ns.found }}{{ ns.nope }}|
{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set c = (a, b) %}{{ c }}{% set t %}block {{ a }}{% endset %}[{{ t }}]{% set u | upper %}up{% endset %}{{ u }}
{% if n == 1 %}1{% elif n == 7 %}7{% else %}x{% endif %}{% if not nope %}no{% endif %}
{% macro m(a, b='B', c=none) %}<{{ a }}{{ b }}{{ c }}>{% endmacro %}{{ m(1) }}{{ m(1, 2) }}{{ m(1, c=3) }}{{ m(b=2, a=1) }}{{ m() }}
{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}{{ f(2) | length }}
{% macro w() %}[{{ caller() }}]{% endmacro %}{% call w() %}in {{ n }}{% endcall %}{% macro v() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ v(1, 2, z=3) }}
{% set g = 'outer' %}{% macro h() %}{{ g }}{% endmacro %}{{ h() }}{% set g = 'later' %}{{ h() }}
{% filter upper %}abc {{ n }}{% endfilter %}{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{% generation %}gen{% endgeneration %}
{# c #}a{#- d -#}  b {# e #} c
  {% if true %}  x  {% endif %}  y
a
  {%- if true %}
  b
  {% endif -%}
  c
  {%+ if true %}
x
  {%+ endif +%}
y
{{- 'a' -}}   {{ 'b' }}
{% raw %}{{ x }} {% if %}{% endraw %}z
{%- raw -%}  {{ y }}  {%- endraw -%}  w
{{ '\n\t\\\'"' }}{{ "a\"b" }}{{ '\u4e2d\x41' }}{{ 'a' 'b' }}
{{ '\N{BULLET}|\N{em dash}|\N{CJK UNIFIED IDEOGRAPH-4E2D}' }}
{{ '\N{NO SUCH CHARACTER}' }}
{{ '\N' }}
{{ s | upper }}{{ s | lower }}{{ s | title }}{{ s | capitalize }}{{ s | length }}{{ s | reverse }}{{ s | list }}{{ s | first }}{{ s | last }}{{ '  x ' | trim }}|{{ 'xax' | trim('x') }}
{{ nums | sort }}{{ nums | sort(reverse=true) }}{{ nums | join }}{{ nums | join(', ') }}{{ nums | sum }}{{ nums | min }}{{ nums | max }}{{ [1, 1, 2] | unique | list }}{{ nums | reverse | list }}
{{ messages | map(attribute='role') | join(',') }}{{ messages | map('length') | list }}{{ messages | selectattr('role', 'equalto', 'user') | list }}{{ messages | rejectattr('n', 'defined') | list | length }}{{ messages | map(attribute='n', default=0) | list }}
{{ nums | select('odd') | list }}{{ nums | reject('>', 1) | list }}{{ nums | select | list }}{{ ['a', 'B'] | sort }}{{ ['b', 'A'] | sort(case_sensitive=true) }}{{ messages | sort(attribute='role') | map(attribute='role') | list }}
{{ d | tojson }}{{ d | tojson(indent=2) }}{{ 'é<' | tojson }}{{ (1, 2) | tojson }}{{ [1.0, 1e20, 1e-7] | tojson }}{{ d | tojson(sort_keys=true) }}{{ d | tojson(separators=(',', ':')) }}
{{ nope | tojson }}
{{ nums | map('string') | tojson }}
{{ '3' | int + 1 }}{{ 'x' | int }}{{ 'x' | int(9) }}{{ '2.7' | int }}{{ 2.9 | int }}{{ '2.5' | float }}{{ 'x' | float }}{{ 2.567 | round(2) }}{{ 2.5 | round }}{{ 2.1 | round(0, 'ceil') }}{{ 7 | string + 'x' }}
{{ 'a b c' | replace('b', 'X') }}{{ 'aaa' | replace('a', 'b', 2) }}{{ 'one two' | wordcount }}{{ '%s-%d' | format('x', 3) }}{{ '%s' % 'q' }}{{ 'l1\nl2' | indent }}{{ 'l1\n\nl2' | indent(2, true) }}
{{ nums | batch(2) | list }}{{ nums | slice(2) | list }}{{ nums | batch(2, 'f') | list }}{{ messages | groupby('role') | map('first') | list }}{{ d | items | list }}{{ d.keys() | list }}{{ d.values() | list }}
{{ s.upper() }}{{ s.split() }}{{ 'a,b,c'.split(',') }}{{ 'a,b,c'.split(',', 1) }}{{ 'a,b,c'.rsplit(',', 1) }}{{ ' a  b c '.split() }}{{ ' a  b c '.split(none, 1) }}{{ s.startswith('He') }}{{ s.endswith(('x', 'ld')) }}{{ s.find('o') }}{{ s.find('zz') }}{{ s.replace('l', 'L') }}{{ s.replace('l', 'L', 1) }}
{{ '  x '.strip() }}|{{ 'xxaxx'.strip('x') }}{{ ' a'.lstrip() }}{{ 'a '.rstrip() }}|{{ '-'.join(['a', 'b']) }}{{ 'ab'.title() }}{{ "it's".title() }}{{ 'abc'.capitalize() }}{{ 'a\nb'.splitlines() }}{{ '12'.isdigit() }}{{ 'ab'.isalpha() }}{{ s.count('l') }}{{ '5'.zfill(3) }}{{ 'a'.center(5) }}|{{ '{} {x}'.format(1, x=2) }}
{{ s is string }}{{ n is number }}{{ n is integer }}{{ f is float }}{{ d is mapping }}{{ nums is iterable }}{{ nums is sequence }}{{ true is boolean }}{{ none is none }}{{ s is iterable }}{{ n is iterable }}{{ d is sequence }}{{ range is callable }}{{ 1 is sameas 1 }}{{ 1 is in [1] }}{{ 'A' is upper }}{{ n is eq 7 }}{{ n is gt(3) }}
{{ range(3) | list }}{{ range(1, 7, 2) | list }}{{ range(3, 0, -1) | list }}{{ dict(a=1, b='x') }}{{ {'a': 1, 'b': [2]} }}{{ [] }}{{ {} }}{{ () }}
{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}{% set j = joiner('|') %}{{ j() }}x{{ j() }}y
{{ raise_exception('bad') }}
{{ strftime_now('%d %b %Y %H:%M:%S %A %B %j %-d %y %%') }}
{{ messages[0].content | safe + '<' }}{{ '<a>' | e }}{{ '<a>' | escape ~ '<' }}{{ "'" | e + '"' }}
{{ nums.append(4) }}
{{ d.pop('a') }}
{{ s.__class__ }}
{{ messages[0]['role'] == 'system' and messages[1:] | length == 2 }}{{ messages | length - 1 }}{{ (messages | first).role }}{{ messages[-1].n + 1 }}
{% for m in messages recursive %}{{ m.role }}{% endfor %}{% for x in [1, [2, 3]] recursive %}{% if x is iterable %}({{ loop(x) }}){% else %}{{ x }}{{ loop.depth }}{% endif %}{% endfor %}
{% for a in [1, 2] %}{% for b in [1, 2] %}{{ loop.index }}{% if b == 1 %}{% continue %}{% endif %}{{ a }}{{ b }}{% endfor %}{{ loop.index }}{% endfor %}
{{ loop.cycle }}
{% for x in nums %}{{ loop.cycle('o', 'e') }}{{ loop.changed(x > 2) }}{% endfor %}
{{ 'a' in ['a', 'b'] | map('upper') }}{{ [1, 2, 3] | map('string') | join('+') }}{{ nums | first | string | length }}
{{ nums | length > 2 and nums[0] is defined }}{{ 1 if nums else 2 }}{{ d.a[0] if d.a is defined and d.a else 'n' }}
{{ s | truncate(7) }}{{ s | truncate(8, true, '') }}{{ s | center(15) }}|{{ 'a b' | urlencode }}{{ messages | sum(attribute='n', start=1) if false else 0 }}
{% if 1 %}a{% endif %}
b
{%- set x = 5 -%}
c{{ x }}
{{ {'a': {'b': 1}}.a.b }}{{ [[1, 2], [3]][0][1] }}{{ (1, 2)[1] }}{{ 'abc'[0] }}{{ nums | join(', ') | length }}
{{ 1_000 }}{{ 1e3 }}{{ 1.50 }}{{ 10 | float }}{{ 1e16 }}{{ 0.1 + 0.2 }}{{ 1 / 3 }}
{% unknown %}
{{ 1 + }}
{% if x %}
{{ 'a' | nofilter }}
{{ 'a' is notest }}
{{ foo( }}
{% set d2 = dict(d, c=3) %}{{ d2.c }}{{ d2 | length }}{% set x = {'k': 'v', **{}} if false else {} %}
{{ 2**100 }} {{ 2**64-1 }} {{ 10**20 // 3 }} {{ -10**20 // 3 }} {{ 10**20 % 7 }} {{ 9223372036854775807 + 1 }} {{ -9223372036854775808 - 1 }} {{ 99999999999999999999 }} {{ 0x1F }} {{ 0b101 }} {{ 0o17 }}
{{ 1e400 }} {{ -7.5 % 2 }} {{ 7.5 % -2 }} {{ 7.5 // -2 }} {{ 2 ** 0.5 }} {{ 2**100 == 2**100 }} {{ 2**100 < 2**101 }} {{ -(2**100) }} {{ (2**100) | abs }}
{{ 0 ** -1 }}
{{ [1] * 3 }} {{ 2 * (1, 'a') }} {{ [1] * -1 }} {{ range(3) }} {{ range(1, 9, 3) }} {{ range(4)[1:] }} {{ range(4)[::-1] }} {{ range(3) | list }} {{ 2 in range(3) }}
{{ range(3) | tojson }}
{{ range(3) + [1] }}
{{ [{'g': 'x', 'v': 1}, {'g': 'X', 'v': 2}, {'v': 3}] | groupby('g', default='z') }} {{ (messages | groupby('role'))[0].grouper }} {{ (messages | groupby('role'))[0].list | length }} {{ messages | groupby('role') | map(attribute='grouper') | list }}
{{ [{'g': 'x'}, {'g': 'X'}] | groupby('g', case_sensitive=true) }} {{ [{'a': 2, 'b': 'x'}, {'a': 1, 'b': 'Y'}, {'a': 1, 'b': 'x'}] | sort(attribute='a,b') }} {{ [d] | max == d }} {{ d.copy() | items | list | length }}
{{ {'b': 1} | dictsort(by='x') }}
{{ ['a', 'b'] | sum(start='') }}
{{ [] | slice(2, 9) | list }} {{ [1, 2, 3] | slice(3, 9) | list }} {{ [1, 2, 3, 4] | slice(3, 9) | list }}
{{ 'hello world foo bar' | wordwrap(10) }} {{ 'hello-world foo' | wordwrap(6, true, '|') }} {{ 'abcdefghij' | wordwrap(4) }} {{ '<p>a</p>  b &lt;' | striptags }} {{ 123456789 | filesizeformat }} {{ 1024 | filesizeformat(true) }} {{ 1 | filesizeformat }} {{ {'a': 1, 'b': none, 'c': 'x"y'} | xmlattr }} {{ {'b': 1, 'a': [1, 'x']} | pprint }}
{{ 'ß' | upper }} {{ 'ﬁ'.upper() }} {{ 'İ' | lower }} {{ 'ΣΑΣ ΣΑ' | lower }} {{ 'ß'.casefold() }} {{ "they're 中a bill's ǆ".title() }} {{ "o'neil mc-donald (foo) [bar]" | title }} {{ 'ßA'.capitalize() }} {{ 'aB'.swapcase() }}
{{ '²'.isdigit() }} {{ '一'.isnumeric() }} {{ 'Abc Def'.istitle() }} {{ 'a_1'.isidentifier() }} {{ 'é'.isascii() }} {{ ''.isprintable() }} {{ 'a' is lower }} {{ 'Aª1' is upper }} {{ '①'.isalnum() }}
{{ 'a\tbc\td'.expandtabs(4) }} {{ 'a\nb\r\nc\n'.splitlines(true) }} {{ 'abc'.startswith('b', 1) }} {{ 'abc'.endswith('b', 0, 2) }} {{ 'abcabc'.find('b', 2) }} {{ 'aXbX'.count('X', 2) }} {{ 'abc'.find('', 9) }}
{{ '0x1f' | int(base=16) }} {{ '1f' | int(base=16) }} {{ '1__0' | int }} {{ '1_0' | int }} {{ '1e400' | float }} {{ '0x10' | float }} {{ 'inf' | int }} {{ ' -5 ' | int }} {{ 2 | round }} {{ 2.5 | round }} {{ 1234.5 | round(-2) }} {{ 1250 | round(-2) }} {{ 1350 | round(-2) }} {{ 2.675 | round(2) }}
{{ nope | int }}
{{ 2.5 | round(method='x') }}
{{ '%(a)s' | format(a=1) }} {{ '%x %X %o %#x' | format(255, 255, 8, 255) }} {{ '%g %g %g' | format(12345678.0, 0.0001, 1.5) }} {{ '%c%c' | format('a', 98) }} {{ '%(x)5.1f|' % {'x': 1} }} {{ '%05d|%-5d|%+d|% d|%.3d' % (1, 2, 3, 4, 5) }} {{ '%e' % 12345.678 }} {{ '%*d' % (5, 3) }} {{ '%d' % 3.9 }} {{ '%.2s|%5s|%-5s|' % ('abc', 'a', 'b') }}
{{ '%s %s' % ('a',) }}
{{ '%d' % 'a' }}
{{ '{:>5}|{:<5}|{:^5}|{:*^9}'.format('a', 'b', 'c', 'd') }} {{ '{:.2f} {:05d} {:,} {:x} {:#x} {:b} {:e} {:+d} {:%} {:g}'.format(3.14159, 42, 1234567, 255, 255, 5, 12345.6, 3, 0.5, 1e20) }} {{ '{!r:>6} {0.a} {0[b]}'.format(d) if false else '{0[b]} {0.b} {n}'.format(d, n=2) }} {{ '{:=+8}|{:08}|{:08.2f}'.format(100, -3, 2.5) }} {{ '{{}}{:{}}'.format('a', 4) }}|{{ '{:.3} {:.3}'.format('abcdef', 2.0) }}
{{ '{:d}'.format(3.5) }}
{{ '{} {0}'.format(1) }}
{{ '}' .format(1) }}
{{ {'a': [1, 2]} | tojson(indent='--') }} {{ {'a': [1, 2]} | tojson(indent=0) }} {{ {'a': 1, 'b': 'x y'} | urlencode }} {{ [('a', '/')] | urlencode }} {{ (3).bit_length() }} {{ (2.0).is_integer() }} {{ 'odd' is test }}
{% macro f(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1, 2, k=3) }} {{ f.name }} {{ f.arguments }} {{ f.catch_varargs }} {{ f.caller }}
{% macro f(a) %}{{ a }}{% endmacro %}{{ f(1, 2) }}
{% macro f(a) %}{{ a }}{% endmacro %}{{ f(b=2) }}
{% macro f() %}x{% endmacro %}{% call f() %}y{% endcall %}
{% macro f(a, a) %}{% endmacro %}
{% for i in [1, 2] %}{% break %}{% else %}e{% endfor %}{% for i in [1, 2] %}{% continue %}{% else %}f{% endfor %}{% for i in [1] %}{{ i }}{% else %}g{% endfor %}
{% for i in ['x', none, 1] %}{{ loop.previtem | default('-') }}{% endfor %} {% block t %}{{ n }}{% endblock %} {% block u scoped %}{% endblock u %} {{ strftime_now('%U %W %V %G %C [%Z%z]') }}
{% raw %}
 x 
{% endraw %}
y
""".strip("\n")


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
env.filters["tojson"] = tojson
env.globals["raise_exception"] = raise_exception
env.globals["strftime_now"] = lambda f: NOW.strftime(f)
groups, lines = [], CASES.split("\n")
i = 0
while i < len(lines):
    take = 1
    if lines[i] == "a":
        take = 5
    elif lines[i].startswith("  {%+ if") or lines[i] in ("{% if 1 %}a{% endif %}", "{% raw %}"):
        take = 4
    groups.append("\n".join(lines[i : i + take]))
    i += take
print(json.dumps({"vars": VARS}, ensure_ascii=False))
for src in groups:
    row = {"template": src}
    try:
        row["rendered"] = env.from_string(src).render(**VARS)
    except Exception as e:
        row["error"] = f"{type(e).__name__}: {e}"
    print(json.dumps(row, ensure_ascii=False))
