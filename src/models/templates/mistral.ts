/** Templates that put questions between [INST] and [/INST]. `String.raw`: a backslash is Jinja's. */

/** The system message, in `system` where there is one, and the others in `turns`. */
const head = `{%- macro text(content) %}
    {%- if content is string %}{{- content }}
    {%- else %}{{- content | selectattr('type', 'equalto', 'text') | map(attribute='text') | join }}
    {%- endif %}
{%- endmacro %}
{%- set turns = messages %}
{%- if messages[0].role == 'system' %}
    {%- set system = text(messages[0].content) %}
    {%- set turns = messages[1:] %}
{%- endif %}
{{- bos_token }}`;

const alternate = 'After the optional system message, conversation roles must alternate user/assistant/user/assistant/...';
const strange = 'Only user and assistant roles are supported, with the exception of an initial optional system message!';

/** The system message stands before the first question. */
export const mistralV1 = String.raw`${head}
{%- for message in turns %}
    {%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}{{- raise_exception('${alternate}') }}{% endif %}
    {%- if message.role == 'user' %}
        {{- ' [INST] ' + (system + '\n\n' if loop.first and system is defined else '') + text(message.content) + ' [/INST]' }}
    {%- elif message.role == 'assistant' %}
        {{- ' ' + text(message.content) + eos_token }}
    {%- else %}
        {{- raise_exception('${strange}') }}
    {%- endif %}
{%- endfor %}`;

const longIds = 'Tool call IDs should be alphanumeric strings with length 9!';

/**
 * The system message and the tools stand before the last question, so that they are read with it. `space`: what follows a control token;
 * `answer`: how a turn of the assistant is written.
 */
const withTools = (space: string, answer: string) => String.raw`${head}
{%- set questions = turns | selectattr('role', 'equalto', 'user') | list %}
{%- set count = namespace(turns=0) %}
{%- for message in turns if message.role not in ['tool', 'tool_results'] and message.tool_calls is not defined %}
    {%- if (message.role == 'user') != (count.turns % 2 == 0) %}{{- raise_exception('${alternate}') }}{% endif %}
    {%- set count.turns = count.turns + 1 %}
{%- endfor %}
{%- for message in turns %}
    {%- if message.role == 'user' %}
        {%- if tools and message == questions[-1] %}
            {{- '[AVAILABLE_TOOLS]${space}[' }}
            {%- for tool in tools %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, value in tool.function.items() if key != 'return' %}
                    {{- '"' + key + '": ' + ('"' + value + '"' if value is string else value | tojson) }}
                    {%- if not loop.last %}{{- ', ' }}{% endif %}
                {%- endfor %}
                {{- '}}' + (']' if loop.last else ', ') }}
            {%- endfor %}
            {{- '[/AVAILABLE_TOOLS]' }}
        {%- endif %}
        {{- '[INST]${space}' + (system + '\n\n' if loop.last and system is defined else '') + text(message.content) + '[/INST]' }}
    {%- elif message.tool_calls is defined %}
        {{- '[TOOL_CALLS]${space}[' }}
        {%- for call in message.tool_calls %}
            {%- if call.id is not defined or call.id | length != 9 %}{{- raise_exception('${longIds}') }}{% endif %}
            {{- (call.function | tojson)[:-1] + ', "id": "' + call.id + '"}' + (']' + eos_token if loop.last else ', ') }}
        {%- endfor %}
    {%- elif message.role == 'assistant' %}
        {{- ${answer} + eos_token }}
    {%- elif message.role in ['tool', 'tool_results'] %}
        {%- set content = message.content.content if message.content.content is defined else message.content %}
        {%- if message.tool_call_id is not defined or message.tool_call_id | length != 9 %}{{- raise_exception('${longIds}') }}{% endif %}
        {{- '[TOOL_RESULTS]${space}{"content": ' ~ content ~ ', "call_id": "' + message.tool_call_id + '"}[/TOOL_RESULTS]' }}
    {%- else %}
        {{- raise_exception('${strange}') }}
    {%- endif %}
{%- endfor %}`;

export const mistralV3 = withTools(' ', "' ' + text(message.content) | trim");
export const mistralTekken = withTools('', 'text(message.content)');
