/** Templates of one line a turn. `String.raw`: a backslash is Jinja's. */

export const alpaca = String.raw`{{ bos_token }}
{%- for message in messages %}
    {%- if message.role == 'system' and loop.first %}{{- message.content }}
    {%- elif message.role == 'user' %}{{- '### Instruction:\n' + message.content }}
    {%- elif message.role == 'assistant' %}{{- '### Response:\n' + message.content + eos_token }}
    {%- endif %}
    {%- if not loop.last %}{{- '\n\n' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '\n\n### Response:\n' }}{% endif %}`;

export const llama3 = String.raw`{% for message in messages %}
    {%- if loop.first %}{{- bos_token }}{% endif %}
    {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' }}
    {%- if message.content is string %}{{- message.content | trim }}
    {%- else %}{{- message.content | selectattr('text', 'defined') | map(attribute='text') | join | trim }}
    {%- endif %}
    {{- '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}`;

/** No generation prompt of its own: it stands at the end of each question. */
export const phi3 = String.raw`{{ bos_token }}
{%- for message in messages %}
    {%- if message.role == 'system' %}{{- '<|system|>\n' + message.content + '<|end|>\n' }}
    {%- elif message.role == 'user' %}{{- '<|user|>\n' + message.content + '<|end|>\n<|assistant|>\n' }}
    {%- elif message.role == 'assistant' %}{{- message.content + '<|end|>\n' }}
    {%- endif %}
{%- endfor %}`;

export const phi35 = String.raw`{% for message in messages %}
    {%- if message.role in ['user', 'assistant'] or (message.role == 'system' and message.content) %}
        {{- '<|' + message.role + '|>\n' + message.content + '<|end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>\n' }}{% endif %}`;

export const deepseekV2 = String.raw`{{ bos_token }}
{%- for message in messages %}
    {%- if message.role == 'user' %}{{- '<｜User｜>' + message.content }}
    {%- elif message.role == 'assistant' %}{{- '<｜Assistant｜>' + message.content + eos_token }}
    {%- elif message.role == 'system' %}{{- message.content + '\n\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<｜Assistant｜>' }}{% endif %}`;

const alternate = 'Conversation roles must alternate user/assistant/user/assistant/...';

/** Turns of user and model; `prefix` stands before the first question, `item` writes a part of a content that is a list. */
const turns = (prefix: string, item: string) => String.raw`{%- for message in turns %}
    {%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}{{- raise_exception('${alternate}') }}{% endif %}
    {{- '<start_of_turn>' + ('model' if message.role == 'assistant' else message.role) + '\n' }}${prefix}
    {%- if message.content is string %}{{- message.content | trim }}
    {%- elif message.content is defined %}{% for item in message.content %}${item}{% endfor %}
    {%- endif %}
    {{- '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<start_of_turn>model\n' }}{% endif %}`;

export const gemma = `{{ bos_token }}
{%- if messages[0].role == 'system' %}{{- raise_exception('System role not supported') }}{% endif %}
{%- set turns = messages %}
${turns('', "{%- if 'text' in item %}{{- item.text | trim }}{% endif %}")}`;

/** The system message stands before the first question. */
export const gemma3 = String.raw`{{ bos_token }}
{%- set turns = messages %}
{%- set system = '' %}
{%- if messages[0].role == 'system' %}
    {%- set turns = messages[1:] %}
    {%- set content = messages[0].content %}
    {%- set system = (content if content is string else content | map(attribute='text') | join) + '\n\n' %}
{%- endif %}
${turns(
  '{{- system if loop.first else "" }}',
  "{%- if item.type == 'image' %}{{- '<start_of_image>' }}{%- elif item.type == 'text' %}{{- item.text | trim }}{% endif %}",
)}`;
