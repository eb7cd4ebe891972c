#!/usr/bin/env python3
"""Renders chat templates with jinja2, as transformers does, for tests/text/chat_template_test.cpp.

Writes tests/data/templates/{chats,language,errors}.json: lists of {"template", "context", "expected"}, where
"expected" is null if rendering has to fail. All templates are written for this purpose, in the manner of the
models that their names say. Needs transformers and jinja2.
"""
import json
import pathlib

from transformers.utils.chat_template_utils import _compile_jinja_template

OUT = pathlib.Path(__file__).resolve().parent.parent / "data" / "templates"

CHATS = {
    "chatml": """{%- for m in messages -%}
<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor %}
{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}""",
    "zephyr": """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}""",
    "mistral": """{{- bos_token }}
{%- set system = "" %}
{%- set turns = messages %}
{%- if messages[0]["role"] == "system" %}
    {%- set system = messages[0]["content"] + "\n\n" %}
    {%- set turns = messages[1:] %}
{%- endif %}
{%- set ns = namespace(index=0) %}
{%- for message in turns if message.role in ("user", "assistant") and not message.tool_calls %}
    {%- if (message.role == "user") != (ns.index % 2 == 0) %}
        {{- raise_exception("roles must alternate") }}
    {%- endif %}
    {%- set ns.index = ns.index + 1 %}
{%- endfor %}
{%- for message in turns %}
    {%- if message.role == "user" %}
        {%- if tools is not none and tools and loop.last %}
            {{- "[AVAILABLE_TOOLS] [" }}
            {%- for tool in tools %}
                {%- set tool = tool.function %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, val in tool.items() if key != "return" %}
                    {%- if val is string %}
                        {{- '"' + key + '": "' + val + '"' }}
                    {%- else %}
                        {{- '"' + key + '": ' + val|tojson }}
                    {%- endif %}
                    {%- if not loop.last %}{{- ", " }}{%- endif %}
                {%- endfor %}
                {{- "}}" }}{{- ", " if not loop.last else "]" }}
            {%- endfor %}
            {{- "[/AVAILABLE_TOOLS]" }}
        {%- endif %}
        {{- "[INST] " ~ (system if loop.first else "") ~ message.content ~ "[/INST]" }}
    {%- elif message.tool_calls is defined and message.tool_calls %}
        {{- "[TOOL_CALLS] [" }}
        {%- for call in message.tool_calls %}
            {%- set out = call.function|tojson %}
            {{- out[:-1] }}{{- ', "id": "' + call.id + '"}' }}{{- ", " if not loop.last else "]" + eos_token }}
        {%- endfor %}
    {%- elif message.role == "assistant" %}
        {{- " " + message["content"]|trim + eos_token }}
    {%- elif message.role in ["tool", "tool_results"] %}
        {%- set content = message.content.content if message.content.content is defined else message.content %}
        {{- '[TOOL_RESULTS] {"content": ' + content|string + "}[/TOOL_RESULTS]" }}
    {%- endif %}
{%- endfor %}""",
    "llama3": """{{- bos_token }}
{#- tools go into the first user message -#}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- if messages and messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}
{%- if tools is defined and tools is not none %}
    {{- "Environment: ipython\n" }}
{%- endif %}
{{- "Today: " + date_string + "\n\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- if tools %}
    {%- if messages | length == 0 %}
        {{- raise_exception("no first user message") }}
    {%- endif %}
    {%- set first_user_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
    {{- '<|start_header_id|>user<|end_header_id|>\n\n' -}}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\n\n" }}
    {%- endfor %}
    {{- first_user_message + "<|eot_id|>" }}
{%- endif %}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("one call at once") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '{"name": "' + tool_call.name + '", "parameters": ' }}
        {{- tool_call.arguments | tojson }}
        {{- "}<|eot_id|>" }}
    {%- elif message.content is mapping or (message.content is iterable and message.content is not string) %}
        {{- message.content | tojson }}
    {%- else %}
        {{- message.content }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}""",
    "qwen-thinking": """{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- for tool in tools %}{{- "\n" }}{{- tool | tojson }}{%- endfor %}
    {{- "<|im_end|>\n" }}
{%- endif %}
{%- set ns = namespace(searching=true, last_query=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.searching and message.role == "user" and not message.content.startswith('<tool>') %}
        {%- set ns.searching = false %}
        {%- set ns.last_query = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- set reasoning = '' %}
    {%- if '</think>' in content %}
        {%- set reasoning = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
        {%- set content = content.split('</think>')[-1].lstrip('\n') %}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\n' }}
    {%- if reasoning and loop.index0 > ns.last_query %}
        {{- '<think>\n' + reasoning.strip('\n') + '\n</think>\n\n' }}
    {%- endif %}
    {{- content }}
    {%- for tool_call in message.tool_calls or [] %}
        {%- if tool_call.function %}{%- set tool_call = tool_call.function %}{%- endif %}
        {{- '\n<tool_call>\n{"name": "' ~ tool_call.name ~ '", "arguments": ' }}
        {{- tool_call.arguments if tool_call.arguments is string else tool_call.arguments | tojson }}
        {{- '}\n</tool_call>' }}
    {%- endfor %}
    {%- if message.role != 'tool' or loop.last or loop.nextitem.role != 'tool' %}{{- '<|im_end|>\n' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}
{%- endif %}""",
    "gemma": """{{ bos_token }}
{%- set prefix = messages[0].content ~ '\n\n' if messages and messages[0].role == 'system' else '' -%}
{%- for message in (messages[1:] if prefix else messages) -%}
    {%- set role = 'model' if message.role == 'assistant' else message.role -%}
    {{ '<start_of_turn>' + role + '\n' + (prefix if loop.first else '') }}
    {%- if message.content is string -%}
        {{ message.content | trim }}
    {%- elif message.content is iterable -%}
        {%- for item in message.content -%}
            {%- if item.type == 'image' -%}{{ '<image>' }}{%- else -%}{{ item.text | trim }}{%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {{ '<end_of_turn>\n' }}
{%- endfor -%}
{{ '<start_of_turn>model\n' if add_generation_prompt }}""",
    "deepseek": """{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}
{% set ns = namespace(is_first=true, is_tool=false, system='') %}
{%- for message in messages %}{%- if message['role'] == 'system' %}
{%- if ns.is_first %}{% set ns.system = ns.system + message['content'] %}{% set ns.is_first = false %}
{%- else %}{% set ns.system = ns.system + '\n\n' + message['content'] %}{%- endif %}{%- endif %}{%- endfor %}
{{- bos_token }}{{ ns.system }}
{%- for message in messages %}
{%- if message['role'] == 'user' %}{%- set ns.is_tool = false -%}{{ '<User>' + message['content'] }}{%- endif %}
{%- if message['role'] == 'assistant' and message['content'] is not none %}
{%- set content = message['content'] %}
{%- if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}
{{- '<Assistant>' + content + '<end>' }}{%- endif %}
{%- if message['role'] == 'tool' %}{%- set ns.is_tool = true -%}{{ '<outputs>' + message['content'] + '</outputs>' }}{%- endif %}
{%- endfor -%}
{% if add_generation_prompt and not ns.is_tool %}{{ '<Assistant>' }}{% endif %}""",
    "phi": """{% for message in messages %}{% if message['role'] == 'system' and message['content'] %}{{'<|system|>
' + message['content'] + '<|end|>
'}}{% elif message['role'] == 'user' %}{{'<|user|>
' + message['content'] + '<|end|>
'}}{% elif message['role'] == 'assistant' %}{% generation %}{{'<|assistant|>
' + message['content'] + '<|end|>
'}}{% endgeneration %}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>
' }}{% else %}{{ eos_token }}{% endif %}""",
    "typed-tools": """{%- macro type_of(spec, nullable=true) -%}
    {%- if spec.type is iterable and spec.type is not string -%}
        {{- spec.type | join(' | ') -}}
    {%- elif spec.type == 'array' -%}
        {{- type_of(spec['items']) + '[]' -}}
    {%- elif spec.enum is defined -%}
        {{- spec.enum | map('tojson') | join(' | ') -}}
    {%- elif spec.type == 'object' and spec.properties -%}
        {
        {%- for name, inner in spec.properties.items() -%}
            {{- name ~ ('' if name in (spec.required or []) else '?') ~ ': ' ~ type_of(inner, nullable=false) }}{{ ', ' if not loop.last }}
        {%- endfor -%}
        }
    {%- else -%}
        {{- {'string': 'str', 'integer': 'int', 'number': 'float', 'boolean': 'bool'}.get(spec.type, 'any') -}}
    {%- endif -%}
    {%- if nullable and spec.nullable %} | null{% endif -%}
{%- endmacro -%}
{% for tool in tools or [] -%}
{%- set f = tool.function %}
# {{ f.name|title }}: {{ f.description | default('no description') | capitalize }}
type {{ f.name }} = ({{ type_of(f.parameters) }}) => {{ type_of(f['return']) if f['return'] is defined else 'any' }}
{% for key, value in f.parameters.properties | dictsort %}
  - {{ '%-8s' | format(key) }}|{{ value.description | default('-', true) | upper }}{{ ' (default ' ~ value.default ~ ')' if value.default is defined }}
{% endfor %}
{% endfor -%}
{% for message in messages if message.role != 'system' %}
{{ loop.index }}/{{ loop.length }} {{ message.role }}{{ ' after ' ~ loop.previtem.role if not loop.first }}
{% else %}
nothing was said
{% endfor %}""",
}

TOOLS = [
    {"type": "function", "function": {
        "name": "get_weather", "description": "weather at <place> & \"more\", für dich",
        "parameters": {"type": "object", "required": ["city"], "properties": {
            "city": {"type": "string", "description": "the city"},
            "unit": {"type": "string", "enum": ["°C", "°F"]},
            "days": {"type": ["integer", "null"], "default": 3},
            "at": {"type": "object", "properties": {"x": {"type": "array", "items": {"type": "number"}}}}}},
        "return": {"type": "string", "nullable": True}}},
    {"type": "function", "function": {"name": "noop", "parameters": {"type": "object", "properties": {}}}},
]
CALL = {"id": "abc123def", "type": "function", "function": {
    "name": "get_weather", "arguments": {"city": "Zürich", "days": 2, "x": 1.5, "b": True, "n": None}}}
CONVERSATIONS = {
    "plain": [{"role": "user", "content": "Hi  there\n"}, {"role": "assistant", "content": " Hello! "},
              {"role": "user", "content": "How <are> 'you'? \"q\" ünïcödé 🙂"}],
    "system": [{"role": "system", "content": " You are a pirate. "}, {"role": "user", "content": "Hi"}],
    "thinking": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "<think>\na\n</think>\n\nb"},
                 {"role": "user", "content": "r"}, {"role": "assistant", "content": "<think>c</think>d"}],
    "tools": [{"role": "user", "content": "weather?"}, {"role": "assistant", "content": None, "tool_calls": [CALL]},
              {"role": "tool", "content": "{\"t\": 5}", "tool_call_id": "abc123def"},
              {"role": "assistant", "content": "5 degrees"}, {"role": "user", "content": "thanks"}],
    "parts": [{"role": "user", "content": [{"type": "text", "text": "look "}, {"type": "image"}]}],
    "disorder": [{"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}],
    "empty": [],
}

# One small template a line; the context is VARIABLES.
VARIABLES = {"s": "Hello, Wörld", "n": 7, "f": 2.5, "neg": -7, "t": True, "no": False, "none": None, "e": "", "l": [3, 1, 2],
             "d": {"b": 1, "A": [1, {"x": None}], "items": 5}, "people": [
                 {"name": "Zoe", "age": 31, "at": {"city": "Bern"}}, {"name": "adam", "age": 25, "at": {"city": "Rome"}},
                 {"name": "Bo", "age": 31}], "ws": " \t a b\n c  ", "path": "a.b.c", "big": 1e16, "tiny": 1e-5, "third": 1 / 3}
LANGUAGE = r"""
{{ s }}|{{ n }}|{{ f }}|{{ t }}|{{ no }}|{{ none }}|{{ l }}|{{ d }}|{{ missing }}|{{ big }}|{{ tiny }}|{{ third }}
{{ 1 + 2 * 3 }} {{ (1 + 2) * 3 }} {{ 7 / 2 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 7.5 // 2 }} {{ -7.5 % 2 }}
{{ 2 ** 3 ** 2 }} {{ -2 ** 2 }} {{ 10 - 3 - 2 }} {{ 1e3 }} {{ 1.0 }} {{ 1_000 }} {{ 4 / 2 }} {{ t + 1 }} {{ 0.1 + 0.2 }} {{ 1e16 }} {{ 123456789.5e10 }} {{ 1.5e-7 }}
{{ 'a' ~ 1 ~ none ~ 2.0 ~ [1] ~ missing }} {{ 'a' 'b' "c" }} {{ 'ab' * 3 }} {{ [1, 2] * 2 }} {{ [1] + [2] }} {{ (1,) + (2,) }} {{ (1) }} {{ () }}
{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 1 == 1.0 }} {{ t == 1 }} {{ 'a' < 'b' }} {{ [1, 2] < [1, 3] }} {{ l == [3, 1, 2] }} {{ d == {'b': 1} }} {{ 'a' == 1 }} {{ none == false }}
{{ 'ell' in s }} {{ 'x' not in s }} {{ 2 in l }} {{ 'b' in d }} {{ 'z' in d }} {{ 1 in (1, 2) }} {{ not 1 in l }} {{ 'x' in missing }}
{{ none or 'x' }} {{ 0 and 1 }} {{ '' or [] or 'last' }} {{ not none }} {{ not (t and no) }} {{ t or missing.x }} {{ n and s }}
{{ 'yes' if t else 'no' }} {{ 'yes' if no else 'no' }} {{ 'x' if no }}| {{ 1 if no else 2 if no else 3 }} {{ ('a' if t else 'b') + 'c' }}
{{ s[0] }} {{ s[-1] }} {{ s[7:9] }} {{ s[::-1] }} {{ s[:5] }} {{ s[-5:] }} {{ s[::2] }} {{ l[0] }} {{ l[-1] }} {{ l[1:] }} {{ l[::-1] }} {{ l[5] }}| {{ l[-9:9] }} {{ (1, 2, 3)[1:] }} {{ l[2:0:-1] }} {{ s[99] }}|
{{ d.b }} {{ d['b'] }} {{ d.A[1].x }} {{ d.nothing }}| {{ d['nothing'] }}| {{ d['items'] }} {{ l.0 }} {{ people[0].at.city }} {{ people.1.name }}
{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %} {{ d.keys() | list }} {{ d.values() | list }} {{ d.get('b') }} {{ d.get('q') }} {{ d.get('q', 4) }} {{ d.items() | list }} {{ d | items | list }} {{ d.keys() }}
{{ s | length }} {{ l | length }} {{ d | count }} {{ missing | length }} {{ s | upper }} {{ s | lower }} {{ 'hello wORLD-foo (bar' | title }} {{ 'hello wORLD' | capitalize }} {{ 'straße' | upper }}
[{{ ws | trim }}] [{{ ws.strip() }}] [{{ ws.lstrip() }}] [{{ ws.rstrip() }}] [{{ 'xxaxx'.strip('x') }}] [{{ 'xyaxy'.lstrip('xy') }}] [{{ '--a--' | trim('-') }}] [{{ ' a '.strip(' ') }}]
{{ ws.split() }} {{ 'a,b,,c'.split(',') }} {{ 'a,b,c'.split(',', 1) }} {{ 'a b  c'.split(' ') }} {{ 'a,b,c'.rsplit(',', 1) }} {{ ' a b c '.split(none, 1) }} {{ ' a b c '.rsplit(none, 1) }} {{ ''.split() }} {{ ''.split(',') }} {{ 'a\nb\r\nc'.splitlines() }}
{{ s.startswith('Hell') }} {{ s.endswith(('x', 'rld')) }} {{ s.find('W') }} {{ s.find('q') }} {{ 'abcb'.rfind('b') }} {{ 'aXbX'.replace('X', '-') }} {{ 'aXbX'.replace('X', '-', 1) }} {{ 'abc'.replace('', '-') }} {{ 'banana'.count('an') }} {{ 'abc'.index('c') }}
{{ s.upper() }} {{ s.lower() }} {{ "they're bill's".title() }} {{ 'aBC'.capitalize() }} {{ '12'.isdigit() }} {{ 'a1'.isalnum() }} {{ 'a1'.isalpha() }} {{ ' '.isspace() }} {{ ''.isdigit() }} {{ 'AB'.isupper() }} {{ 'prefix-x'.removeprefix('prefix-') }} {{ 'a.py'.removesuffix('.py') }}
{{ ', '.join(['a', 'b']) }} {{ l | join }} {{ l | join('-') }} {{ people | join(', ', attribute='name') }} {{ people | map(attribute='name') | join(',') }} {{ people | map(attribute='at.city', default='?') | list }} {{ ['a', 'B'] | map('upper') | list }} {{ [' a '] | map('trim') | list }} {{ ['ab'] | map('replace', 'a', 'x') | first }}
{{ people | selectattr('age', 'equalto', 31) | map(attribute='name') | list }} {{ people | rejectattr('age', '>', 30) | map(attribute='name') | list }} {{ people | selectattr('at') | list | length }} {{ people | selectattr('at', 'defined') | list | count }} {{ [1, 2, 3, 4] | select('odd') | list }} {{ [1, 2, 3] | reject('in', [1, 2]) | list }} {{ [0, 1, '', 'a'] | select | list }}
{{ l | first }} {{ l | last }} {{ l | sort }} {{ l | sort(reverse=true) }} {{ ['b', 'A', 'c'] | sort }} {{ ['b', 'A', 'c'] | sort(case_sensitive=true) }} {{ people | sort(attribute='age,name') | map(attribute='name') | list }} {{ l | reverse | list }} {{ 'abc' | reverse }} {{ [1, 2, 1, 'a', 'A'] | unique | list }} {{ l | min }} {{ l | max }} {{ l | sum }} {{ people | sum(attribute='age') }} {{ [] | first }}|
{{ d | dictsort }} {{ {'b': 1, 'a': 2} | dictsort(by='value') }} {{ {'b': 1, 'B': 0, 'a': 2} | dictsort(true) }} {{ {'b': 1, 'a': 2} | dictsort(reverse=true) }}
{{ missing | default('x') }} {{ e | default('x') }}| {{ e | default('x', true) }} {{ none | default('x') }} {{ none | d('x', boolean=true) }} {{ missing | d }}|
{{ d | tojson }} {{ s | tojson }} {{ '<&\'">' | tojson }} {{ "\t\n\u0001\\/" | tojson }} {{ [1.0, 1e20, none, true] | tojson }} {{ (1, 2) | tojson }} {{ {1: 2, none: 3, true: 4} | tojson }} {{ s | tojson(ensure_ascii=true) }} {{ '🙂' | tojson(true) }}
{{ d | tojson(indent=2) }} {{ [] | tojson(indent=2) }} {{ {} | tojson(indent=4) }} {{ {'b': 1, 'a': [1]} | tojson(sort_keys=true) }} {{ d | tojson(separators=(',', ':')) }} {{ [1, [2]] | tojson(indent='\t') }} {{ [1] | tojson(indent=0) }}
{{ '42' | int }} {{ ' 42 ' | int }} {{ '4.7' | int }} {{ 'x' | int }} {{ 'x' | int(5) }} {{ 4.9 | int }} {{ -4.9 | int }} {{ 'ff' | int(base=16) }} {{ none | int }} {{ '1.5' | float }} {{ 'x' | float }} {{ 3 | float }} {{ 3 | string + 'a' }} {{ '1e2' | float }} {{ true | int }}
{{ 2.567 | round(2) }} {{ 2.5 | round }} {{ 3.5 | round }} {{ 2.675 | round(2) }} {{ 2.1 | round(method='ceil') }} {{ 2.9 | round(0, 'floor') }} {{ 7 | round }} {{ -3 | abs }} {{ 2.25 | round(1) }} {{ -2.5 | abs }}
{{ 'a\nb\n\nc' | indent }} {{ 'a\nb' | indent(2, true) }} {{ 'a\n\nb' | indent(2, blank=true) }} {{ 'a\nb' | indent('> ') }} {{ 'a\n' | indent }}
{{ 'foo bar baz' | truncate(9) }} {{ 'foo bar baz qux' | truncate(9) }} {{ 'foo bar baz qux' | truncate(9, true) }} {{ 'foo bar baz qux' | truncate(9, true, '', 0) }} {{ '<a href="x">' | e }} {{ '<b>' | safe }}
{{ '%s is %d years, %.2f%% %5s|%-5s|%05d %x %r' | format('Bo', 3, 1.239, 'a', 'b', 42, 255, 'q') }} {{ '%s-%s' % (1, 'b') }} {{ '%s' % 'x' }} {{ '{0} {1} {x} {{}}'.format(1, 2, x=3) }} {{ '{} {}'.format('a', none) }}
{{ missing is defined }} {{ s is defined }} {{ missing is undefined }} {{ none is none }} {{ s is string }} {{ n is number }} {{ t is number }} {{ n is integer }} {{ t is integer }} {{ f is float }} {{ t is boolean }} {{ t is true }} {{ no is false }} {{ 1 is true }}
{{ d is mapping }} {{ l is mapping }} {{ l is sequence }} {{ s is sequence }} {{ d is sequence }} {{ d.items() is sequence }} {{ n is sequence }} {{ l is iterable }} {{ n is iterable }} {{ none is iterable }} {{ missing is iterable }} {{ missing is sequence }} {{ missing is string }} {{ range is callable }} {{ s is callable }}
{{ 3 is odd }} {{ 4 is even }} {{ 6 is divisibleby 3 }} {{ 6 is divisibleby(4) }} {{ 'abc' is lower }} {{ 'ABC' is upper }} {{ 1 is in [1, 2] }} {{ 3 is not in [1] }} {{ 3 is eq 3 }} {{ 3 is gt(2) }} {{ n is not none }} {{ n is sameas 7 }} {{ 'upper' is filter }} {{ 'nope' is test }} {{ not n is none }} {{ 1 is ne 2 and 2 is lessthan 3 }}
{% for i in range(5) %}{{ i }}{% endfor %} {{ range(2, 8, 3) | list }} {{ range(3, 0, -1) | list }} {{ range(0) | list }} {{ range(5)[1] }} {{ range(3) | sum }}
{% for x in l %}{{ loop.index }}/{{ loop.index0 }}/{{ loop.revindex }}/{{ loop.revindex0 }}/{{ loop.first }}/{{ loop.last }}/{{ loop.length }}/{{ loop.previtem }}/{{ loop.nextitem }}/{{ loop.depth }}/{{ loop.cycle('a', 'b') }};{% endfor %}
{% for a in [1, 2] %}{% for b in 'xy' %}{{ a }}{{ b }}{{ loop.index }}{{ loop.depth0 }} {% endfor %}{{ loop.index }}{% endfor %}
{% for x in [] %}x{% else %}none{% endfor %} {% for x in missing %}x{% else %}none{% endfor %} {% for x in l if x > 1 %}{{ x }}{{ loop.length }}{% endfor %} {% for x in l if x > 9 %}{% else %}e{% endfor %}
{% for x in range(10) %}{% if x == 2 %}{% continue %}{% endif %}{% if x == 5 %}{% break %}{% endif %}{{ x }}{% endfor %}
{% for a, (b, c) in [(1, (2, 3)), (4, (5, 6))] %}{{ a + b + c }} {% endfor %}{% for c in 'aü🙂' %}[{{ c }}]{% endfor %}{% for k in d %}{{ k }}{% endfor %}
{% set x = 1 %}{% for i in l %}{% set x = x + i %}{{ x }} {% endfor %}{{ x }} {% if true %}{% set x = 9 %}{% endif %}{{ x }} {% set ns = namespace(x=0, y={'a': 1}) %}{% for i in l %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }} {{ ns.y.a }} {{ ns.z }}|{{ ns['x'] }}
{% set a, b = 1, 'two' %}{{ a }}{{ b }} {% set c = (1, 2) %}{{ c }} {% set q = 1, %}{{ q }} {% set x %}block {{ n }}{% endset %}[{{ x }}] {% set y | upper | trim %} loud {{ s }} {% endset %}[{{ y }}]
{% macro f(a, b=2, c='x') %}{{ a }}-{{ b }}-{{ c }}{% endmacro %}{{ f(1) }} {{ f(1, 3) }} {{ f(1, c='z') }} {{ f(b=5, a=4) }} {{ f() }} {{ f(*[7, 8]) }} {{ f(**{'a': 1, 'c': 2}) }} {{ f(1) | upper }} {{ f(1) ~ '!' }} {{ f is callable }}
{% macro fact(k) %}{{ 1 if k < 2 else k * (fact(k - 1) | int) }}{% endmacro %}{{ fact(10) }} {% macro g() %}{{ later }}{% endmacro %}{% set later = 'seen' %}{{ g() }} {% macro h(a, b=a * 2) %}{{ b }}{% endmacro %}{{ h(4) }}
{% macro box(title) %}<{{ title }}>{{ caller(title | length) }}</{{ title }}>{% endmacro %}{% call(k) box('abc') %}in {{ k }} {{ n }}{% endcall %} {% macro plain() %}({{ caller() }}){% endmacro %}{% call plain() %}p{% endcall %}
{% macro noarg() %}a{% set inside = 1 %}{% endmacro %}{{ noarg() }}{{ inside }} {% for i in [1, 2] %}{% macro m() %}{{ i }}{% endmacro %}{{ m() }}{% endfor %}
{% filter upper %}loud {{ s }}{% endfilter %} {% filter replace('a', 'b') | title %}banana{% endfilter %} {% with a = 1, b = n %}{{ a + b }}{% endwith %}{{ a }}| {% generation %}gen {{ n }}{% endgeneration %}
{% raw %}{{ not }} {% rendered %} {# at all #}{% endraw %} {#- comment with {{ }} -#} a {# b #} c {%- raw -%}  x  {%- endraw -%} d
{{ {'a': {'b': 1}}['a']['b'] }} {{ {'a': {}} }} {{ {'a': [{'b': (1, 2)}]} }} {{ {} }} {{ {1: 'x', 'k': none}[1] }} {{ dict(a=1, b=2) }} {{ dict([('x', 1)]) }} {{ dict({'a': 1}, b=2).b }}
{{ 'esc: \'q\' "d" \\ \n \t \x41 \u00e9 \U0001F642 \101 \q' }} {{ ['it\'s', "say \"x\"", 'a\nb\\', 'é\x00\x7f'] }}
{% if n > 5 and not (n == 8 or n < 0) %}a{% elif true %}b{% else %}c{% endif %}{% if n is odd and s %}d{% endif %}{% if none %}{% elif missing %}{% else %}e{% endif %}{% if l %}f{% endif %}{% if [] or {} or '' or 0 or 0.0 %}{% else %}g{% endif %}
{{ (people | map(attribute='name')) and 'generators are true' }} {% set gen = l | map('string') %}{{ gen | join }}{{ gen | join }}| {{ ([] | select) is iterable }} {{ (l | map('string')) is sequence }}
{{ -n }} {{ +n }} {{ - n | abs }} {{ -1 | abs }} {{ not n }} {{ n.real if false else 'x' }} {{ n.nothing }}| {{ s.nothing }}| {{ none.x }}| {{ true.x }}|
{{ 'ünïcödé 🙂' | length }} {{ 'ünïcödé 🙂'[-1] }} {{ 'ÜBER' | lower }} {{ 'a b' | trim }} {{ 'x y'.split() }} {{ 'ǆ' | upper }} {{ '日本語'[1] }} {{ '日本語' | list }}
{{ s.append }}{{ d._x }}{{ s.__class__ }}| {{ strftime_now('%d %b %Y') | length }} {{ (1, [2]) == (1, [2]) }} {{ [1, 'a', none, 2.0, (1,), {}] }}
""".strip("\n").split("\n")

WHITESPACE = [
    "{{ \"multi\nline\" }}",
    "a\n  {% if true %}\n  b\n  {% endif %}\nc\n", "a {% if true %} b {% endif %} c", "  {%- if true -%}  x  {%- endif -%}  y",
    "  {%+ if true %}\n  x{% endif +%}\n y", "a\n\n  {{- 'x' -}}  \n b", "{% if true %}\n\n\nx\n{% endif %}\n\ny", "a\r\nb\rc\n",
    "x\n\n", "{# c #}\nx\n   {# c #}   \ny {# c #}\nz", "\t{% set x = 1 %}\n\t{{ x }}\n\t{% set y = 2 %}{{ y }}\n",
    "{% for i in [1,2] %}\n  {{ i }}\n{% endfor %}\n", "  {% raw %}\n  a {{ b }}\n  {% endraw %}\n c", "{{ 'a' }}\n{{ 'b' }}\n\n",
    "a{%- set x = 1 %}\n b {{ x -}}\n c", "   {# a -#}   b\n  {#- c #}\n d", "{%if true%}x{%endif%}", "{{1}}{{'a'}}{%if 1%}{{2}}{%endif%}",
    "{%- macro a(x) %}\n  [{{ x }}]\n{% endmacro -%}\n\n  {{ a(1) }}", "a\n {{ 'v' }}\n {%- if 1 %}\n b\n {% endif -%} \n c", "", "\n", "{{ '{{ }}' }} }} %} {",
    "{{ 1\n   +\n 2 }} { { % } x", "a\f\v{%- if 1 %} {% endif %}\u00a0{%- if 1 %}b{% endif %}",
]

ERRORS = [
    "{{ missing.x }}", "{{ missing['x'] }}", "{{ missing() }}", "{{ missing + 1 }}", "{{ missing < 1 }}", "{{ d.nothing.more }}", "{{ missing | int }}",
    "{{ raise_exception('no') }}", "{{ 1 / 0 }}", "{{ 1 % 0 }}", "{{ 'a' + 1 }}", "{{ 1 + 'a' }}", "{{ 1 < 'a' }}", "{{ 1 in 'a' }}", "{{ none + 1 }}",
    "{% for x in 5 %}{% endfor %}", "{% for a, b in [1] %}{% endfor %}", "{% for a, b in [(1, 2, 3)] %}{% endfor %}", "{{ 5 | length }}", "{{ missing | tojson }}",
    "{{ l.append(4) }}", "{{ d.update({'x': 1}) }}", "{{ l.pop() }}", "{{ ''.__class__.__mro__ }}", "{{ s.split('') }}", "{{ 'a'.index('b') }}", "{{ s | nope }}", "{{ s is nope }}",
    "{{ f( }}", "{{ a b }}", "{% if %}{% endif %}", "{% if true %}", "{% endif %}", "{% for x in %}{% endfor %}", "{% nope %}", "{{ 'a }}", "{{ 1", "{# open", "{% raw %} open", "{{ }}", "{{ (1 }}",
    "{% set x.y = 1 %}", "{% set s.y = 1 %}", "{% set ns = namespace() %}{% set ns._x = 1 %}", "{% macro f(a=1, b) %}{% endmacro %}", "{% macro f(a) %}{% endmacro %}{{ f(1, 2) }}", "{% macro f(a) %}{% endmacro %}{{ f(z=1) }}",
    "{{ s.upper(1) }}", "{{ s | replace('a') }}", "{{ l | map | list }}", "{{ range(1, 5, 0) }}", "{{ range(1000001) | length }}", "{{ {[1]: 2} }}", "{{ [1, 2] | last(3) }}", "{{ 'a' | sort(attribute='x.y') }}",
    "{% break %}", "{{ '%d' % 'x' }}", "{{ '%s %s' % 'x' }}", "{{ l | map('upper') | last }}", "{{ [1, 'a'] | sort }}", "{{ n() }}", "{{ s[::0] }}", "{{ 1 is divisibleby 0 }}", "{{ 5 | items | list }}", "{{ 5 | dictsort }}",
]


def render(template, context):
    try:
        return _compile_jinja_template(template).render(**context)
    except Exception:
        return None


def write(name, cases):
    path = OUT / f"{name}.json"
    rows = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    path.write_text(f"[\n{rows}\n]\n", encoding="utf-8")
    print(f"{path}: {len(cases)} cases")


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    chats = []
    for name, template in CHATS.items():
        for title, messages in CONVERSATIONS.items():
            for extra in ({"add_generation_prompt": True}, {"add_generation_prompt": False, "tools": TOOLS, "enable_thinking": False}):
                context = {"messages": messages, "bos_token": "<s>", "eos_token": "</s>", **extra}
                chats.append({"name": f"{name}, {title}", "template": template, "context": context,
                              "expected": render(template, context)})
    write("chats", chats)
    language = [{"template": t, "context": VARIABLES, "expected": render(t, VARIABLES)} for t in LANGUAGE + WHITESPACE]
    for case in language:
        assert case["expected"] is not None, case["template"]
    write("language", language)
    errors = [{"template": t, "context": VARIABLES, "expected": render(t, VARIABLES)} for t in ERRORS]
    for case in errors:
        assert case["expected"] is None, (case["template"], case["expected"])
    write("errors", errors)


if __name__ == "__main__":
    main()
