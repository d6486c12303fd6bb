/** Templates whose turns stand between <|im_start|> and <|im_end|>. `String.raw`: a backslash is Jinja's. */

const generation = String.raw`{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{% endif %}`;

export const chatml = String.raw`{% for message in messages -%}
    {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
{%- endfor %}
${generation}`;

/** What a system message says of the tools that may be called, after what it says besides. */
const toolsIntroduction = String.raw`# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{%- for tool in tools %}{{ '\n' ~ (tool | tojson) }}{% endfor %}{{ '\n' }}</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call>`;

/** A tool's answer is a part of a turn of the user; answers that follow one another share it. */
const toolAnswer = (content: string) => String.raw`{%- if loop.first or loop.previtem.role != 'tool' %}{{- '<|im_start|>user' }}{% endif %}
        {{- '\n<tool_response>\n' }}${content}{{- '\n</tool_response>' }}
        {%- if loop.last or loop.nextitem.role != 'tool' %}{{- '<|im_end|>\n' }}{% endif %}`;

const assistantOfQwen = 'You are Qwen, created by Alibaba Cloud. You are a helpful assistant.';

export const qwen25 = String.raw`{%- set first = messages[0] %}
{%- set system = first.content if first.role == 'system' else '${assistantOfQwen}' %}
{%- if tools %}
    {{- '<|im_start|>system\n' + system + '\n\n' }}${toolsIntroduction}{{- '<|im_end|>\n' }}
{%- else %}
    {{- '<|im_start|>system\n' + system + '<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
    {%- elif message.role == 'assistant' and not message.tool_calls %}
        {{- '<|im_start|>assistant\n' + message.content + '<|im_end|>\n' }}
    {%- elif message.role == 'assistant' %}
        {{- '<|im_start|>assistant' }}
        {%- if message.content %}{{- '\n' + message.content }}{% endif %}
        {%- for call in message.tool_calls %}
            {%- set function = call.function if call.function is defined else call %}
            {{- '\n<tool_call>\n{"name": "' ~ function.name ~ '", "arguments": ' ~ (function.arguments | tojson) ~ '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == 'tool' %}
        ${toolAnswer('{{- message.content }}')}
    {%- endif %}
{%- endfor %}
${generation}`;

/** With reasoning in <think>, of the turns behind the last question alone. */
export const qwen3 = String.raw`{%- macro text(content) %}
    {%- if content is string %}{{- content }}
    {%- elif content is not none %}{%- for item in content if 'text' in item %}{{- item.text }}{% endfor %}
    {%- endif %}
{%- endmacro %}
{%- set first = messages[0] %}
{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if first.role == 'system' %}{{- text(first.content) + '\n\n' }}{% endif -%}
    ${toolsIntroduction}{{- '<|im_end|>\n' }}
{%- elif first.role == 'system' %}
    {{- '<|im_start|>system\n' + text(first.content) + '<|im_end|>\n' }}
{%- endif %}
{%- set last = messages | length - 1 %}
{%- set question = namespace(index=last, found=false) %}
{%- for message in messages | reverse if message.role == 'user' and not question.found %}
    {%- set answered = message.content is string and message.content.startswith('<tool_response>') %}
    {%- if not (answered and message.content.endswith('</tool_response>')) %}
        {%- set question.found = true %}
        {%- set question.index = messages.index(message) %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + text(message.content) + '<|im_end|>\n' }}
    {%- elif message.role == 'assistant' %}
        {%- set content = text(message.content) %}
        {%- set reasoning = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set reasoning = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\n' }}
        {%- if loop.index0 > question.index and (loop.index0 == last or reasoning) %}
            {{- '<think>\n' + reasoning.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}
        {%- else %}
            {{- content }}
        {%- endif %}
        {%- for call in message.tool_calls or [] %}
            {%- if content or not loop.first %}{{- '\n' }}{% endif %}
            {%- set function = call.function or call %}
            {%- set arguments = function.arguments if function.arguments is string else function.arguments | tojson %}
            {{- '<tool_call>\n{"name": "' ~ function.name ~ '", "arguments": ' ~ arguments ~ '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == 'tool' %}
        ${toolAnswer('{{- text(message.content) }}')}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n<think>\n\n' + ('</think>\n\n' if enable_thinking is defined and enable_thinking is false else '') }}
{%- endif %}`;
