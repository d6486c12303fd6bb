import { readdirSync, readFileSync } from 'node:fs';
import { openAdapter } from '#lowrank/adapters/folder.js';
import { ReferenceBackend } from '#lowrank/backends/reference/index.js';
import { scope } from '#lowrank/core/scope.js';
import { ChatTemplate } from '#lowrank/data/chat-template.js';
import { prepareExamples } from '#lowrank/data/prepare.js';
import { readRows } from '#lowrank/data/rows.js';
import { Tokenizer } from '#lowrank/data/tokenizer.js';
import { groupQuantized } from '#lowrank/io/bitsandbytes.js';
import { blobSource } from '#lowrank/io/browser.js';
import type { Folder } from '#lowrank/io/folder.js';
import { openNativeEncoder } from '#lowrank/io/node/native-encoder.js';
import { readSafetensors } from '#lowrank/io/safetensors.js';
import { openModelFromFiles } from '#lowrank/models/chosen-files.js';
import { loadModel } from '#lowrank/models/load.js';
import { openTextCodec } from '#lowrank/models/text-model.js';
import type { CausalLM } from '#lowrank/nn/model.js';
import { checkRecipe, parseRecipe } from '#lowrank/runs/recipe.js';
import { LowrankError } from '#lowrank/util/errors.js';
import { type JsonObject, parseJsonObject } from '#lowrank/util/json.js';
import { mutateGguf } from './gguf.js';
import { type Mutator, mutateBytes, mutateJson, mutateSafetensors, mutateText } from './mutate.js';

/** An input: files by name. */
export type Files = Readonly<Record<string, Uint8Array>>;

/** Something that reads what comes from outside. */
export interface Target {
  /** Sound inputs, of which all others are made. */
  seeds(): Files[];
  /** How a file of this name is changed. */
  mutator(name: string): Mutator;
  /** Reads an input and uses it; calls `parsed` when it has been understood. May throw a LowrankError, and nothing else. */
  run(files: Files, parsed: () => void): Promise<void>;
}

const golden = new URL('../../../test/golden/', import.meta.url);
const bytesOf = (path: string): Uint8Array => new Uint8Array(readFileSync(new URL(path, golden)));
const textOf = (bytes: Uint8Array): string => new TextDecoder().decode(bytes);
const encoded = (value: unknown): Uint8Array => new TextEncoder().encode(typeof value === 'string' ? value : JSON.stringify(value));
const blob = (bytes: Uint8Array): Blob => new Blob([bytes as BlobPart]);
const templates = (extension: string): string[] => readdirSync(new URL('templates', golden)).filter((name) => name.endsWith(extension));
const goldenChats: {
  special_tokens: Record<string, JsonObject>;
  cases: { messages: JsonObject[]; tools: JsonObject[] | null; tokenizer: string }[];
} = JSON.parse(textOf(bytesOf('templates/golden.json')));
const tokenizerOf = (kind: string): Tokenizer =>
  new Tokenizer({
    tokenizerJson: parseJsonObject(textOf(bytesOf(`templates/${kind}.tokenizer.json`)), kind),
    tokenizerConfig: goldenChats.special_tokens[kind],
  });
const words = 'The größte  Straße, \n\n\t12345 tokens! 漢字🎉 <s> </s>aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!';
const long = `${' '.repeat(3000)}x${'a'.repeat(3000)}${'ab'.repeat(1500)}\n`;

const safetensors: Target = {
  seeds: () =>
    ['gguf/blocks', 'models/qwen3/adapter/adapter_model', 'models/gemma3/adapter/adapter_model'].map((path) => ({
      'model.safetensors': bytesOf(`${path}.safetensors`),
    })),
  mutator: () => mutateSafetensors,
  async run(files, parsed) {
    const checkpoint = await groupQuantized(await readSafetensors(blobSource(blob(files['model.safetensors']), 'model.safetensors')));
    parsed();
    for (const tensor of checkpoint.tensors.values()) await tensor.readAs('f32');
    await checkpoint.close();
  },
};

/** A few words through a tokenizer and back. */
function useTokenizer(tokenizer: Tokenizer): void {
  for (const text of [words, long]) {
    const ids = tokenizer.encode(text, { addSpecialTokens: true });
    tokenizer.decode(ids, { skipSpecialTokens: true });
    for (const id of ids.slice(0, 5)) tokenizer.byteLength(id);
  }
  const decoder = tokenizer.createDecoder();
  for (const id of tokenizer.encode('größer 🎉')) decoder.push(id);
  decoder.end();
}

/** Loads a model on plain loops, and computes the logits of some tokens. */
async function useModel(source: Awaited<ReturnType<typeof openModelFromFiles>>, parsed: () => void): Promise<void> {
  const backend = new ReferenceBackend();
  try {
    const codec = openTextCodec(source);
    const { model, dispose } = await loadModel(source, backend, { precision: 'fp32' });
    parsed();
    const inputIds = Int32Array.from([0, 1, model.vocabulary - 1]);
    const batch = { inputIds, labels: inputIds, positions: Int32Array.from([0, 1, 2]), segments: Int32Array.from([0, 3, 0, 3]) };
    await scope(() => model.logits(model.hidden(batch))).toFloat32();
    codec.template?.render(goldenChats.cases[0].messages as never);
    dispose();
  } finally {
    await source.checkpoint.close();
    await backend.close();
  }
}

const asFiles = (files: Files): File[] => Object.entries(files).map(([name, bytes]) => new File([bytes as BlobPart], name));

const gguf: Target = {
  seeds: () => ['byte-level', 'sentencepiece'].map((name) => ({ 'model.gguf': bytesOf(`gguf/${name}.gguf`) })),
  mutator: () => mutateGguf,
  async run(files, parsed) {
    const source = await openModelFromFiles(asFiles(files));
    useTokenizer(new Tokenizer(source.tokenizer));
    await useModel(source, parsed);
  },
};

const configWords = [
  ...['hidden_size', 'vocab_size', 'num_hidden_layers', 'head_dim', 'rope_parameters', 'rope_scaling', 'rope_type', 'layer_types'],
  ...['yarn', 'llama3', 'longrope', 'linear', 'dynamic', 'sliding_window', 'quantization_config', 'model_type', 'eos_token_id'],
  ...['chat_template', 'bos_token', 'eos_token', 'llama', 'gemma3_text', 'qwen3', 'phi3', 'tie_word_embeddings', 'sliding_attention'],
];

/** A whole model: config.json, generation_config.json, the tokenizer's files, lowrank.json, and weights that are left as they are. */
const model: Target = {
  seeds: () =>
    readdirSync(new URL('models', golden)).map((name, i) => {
      const kind = Object.keys(goldenChats.special_tokens)[i % 3];
      const template = textOf(bytesOf('templates/chatml.jinja'));
      return {
        'config.json': bytesOf(`models/${name}/config.json`),
        'generation_config.json': encoded({ bos_token_id: 1, eos_token_id: [2, 3], pad_token_id: 0, temperature: 0.7 }),
        'tokenizer.json': bytesOf(`templates/${kind}.tokenizer.json`),
        'tokenizer_config.json': encoded({ ...goldenChats.special_tokens[kind], chat_template: template }),
        'special_tokens_map.json': encoded({ eos_token: '</s>' }),
        'model.safetensors': bytesOf(`models/${name}/model.safetensors`),
      };
    }),
  mutator: (name) => (name.endsWith('.safetensors') ? (content) => content : mutateJson(configWords)),
  run: async (files, parsed) => useModel(await openModelFromFiles(asFiles(files)), parsed),
};

/** A folder of files in memory, for reading. */
function memoryFolder(files: Files): Folder {
  const path = 'adapter';
  const readOnly = async (): Promise<never> => {
    throw new Error('the folder is for reading');
  };
  const open: Folder['open'] = async (name) => {
    if (files[name]) return blobSource(blob(files[name]), `${path}/${name}`);
    throw new LowrankError(`there is no ${name}`, { place: path });
  };
  return {
    path,
    open,
    list: async () => Object.keys(files),
    readText: async (name) => (files[name] ? textOf(files[name]) : undefined),
    folder: () => memoryFolder({}),
    ...{ writeText: readOnly, write: readOnly, append: readOnly, checkAppendable: readOnly, lock: readOnly, remove: readOnly },
    ...{ create: readOnly, publish: readOnly },
  };
}

let base: Promise<CausalLM> | undefined;
async function baseModel(): Promise<CausalLM> {
  const [files] = model.seeds().filter((each) => textOf(each['config.json']).includes('Qwen3'));
  const source = await openModelFromFiles(asFiles(files));
  return (await loadModel(source, new ReferenceBackend(), { precision: 'fp32' })).model;
}

const adapterWords = [
  ...['r', 'lora_alpha', 'target_modules', 'exclude_modules', 'rank_pattern', 'alpha_pattern', 'layers_to_transform', 'layers_pattern'],
  ...['modules_to_save', 'bias', 'use_rslora', 'use_dora', 'peft_type', 'LORA', 'IA3', 'all-linear', 'q_proj', 'lm_head', 'embed_tokens'],
  ...['.*(q|v)_proj', '(.*a)*b', 'model.layers.0', 'lora_only', 'all', 'layers', '^(?!.*down).*_proj$', 'init_lora_weights'],
];

const adapter: Target = {
  seeds: () => [
    {
      'adapter_config.json': bytesOf('models/qwen3/adapter/adapter_config.json'),
      'adapter_model.safetensors': bytesOf('models/qwen3/adapter/adapter_model.safetensors'),
    },
  ],
  mutator: (name) => (name.endsWith('.json') ? mutateJson(adapterWords) : mutateSafetensors),
  async run(files, parsed) {
    const on = await (base ??= baseModel());
    const { adapter: attached } = await openAdapter(memoryFolder(files), on);
    parsed();
    attached.dispose();
  },
};

const tokenizerWords = [
  ...['BPE', 'Unigram', 'WordPiece', 'WordLevel', 'ByteLevel', 'Metaspace', 'Split', 'Sequence', 'Replace', 'Precompiled', 'Digits'],
  ...['TemplateProcessing', 'BertProcessing', 'RobertaProcessing', 'ByteFallback', 'Fuse', 'Strip', 'CTC', 'NFC', 'NFKD', 'BertNormalizer'],
  ...['type', 'pattern', 'Regex', 'String', 'behavior', 'invert', 'content', 'special_tokens', 'single', 'pair', 'SpecialToken', 'merges'],
  ...['vocab', 'unk_token', 'unk_id', 'byte_fallback', 'continuing_subword_prefix', 'end_of_word_suffix', 'max_input_chars_per_word'],
  ...['\\s+(?!\\S)|\\s+', '(a+)+$', '(?:a|ab)*c', '[\\p{L}--a]', 'precompiled_charsmap', 'added_tokens', 'lstrip', 'rstrip', 'normalized'],
];

const tokenizer: Target = {
  seeds: () =>
    templates('.tokenizer.json').map((name) => ({
      'tokenizer.json': bytesOf(`templates/${name}`),
      'tokenizer_config.json': encoded(goldenChats.special_tokens[name.replace('.tokenizer.json', '')] ?? {}),
    })),
  mutator: () => mutateJson(tokenizerWords),
  async run(files, parsed) {
    const [tokenizerJson, tokenizerConfig] = ['tokenizer.json', 'tokenizer_config.json'].map((name) =>
      parseJsonObject(textOf(files[name]), name),
    );
    const made = new Tokenizer({ tokenizerJson, tokenizerConfig });
    parsed();
    useTokenizer(made);
    await (await openNativeEncoder(made))?.([words, long]);
  },
};

const templateWords = [
  ...['{% for m in messages %}', '{% endfor %}', '{% if tools %}', '{% else %}', '{% endif %}', '{{ m.content }}', '{% set x = [x, x] %}'],
  ...[
    '{% macro f(a) %}',
    '{% endmacro %}',
    '{{ f(f) }}',
    '{% generation %}',
    '{% endgeneration %}',
    'namespace(x=[])',
    '| tojson(indent=99999)',
  ],
  ...[
    '| center(999999999)',
    '| indent(1000000)',
    '| join(",")',
    '| replace("a", "aa" * 9999)',
    '"a" * 10 ** 9',
    'range(10 ** 9)',
    '| batch(3)',
  ],
  ...[
    '| map(attribute="x.y")',
    '| selectattr("role", "in", "user")',
    '| groupby("role")',
    '| sort(reverse=true)',
    '.split("")',
    '.format(1, x=2)',
  ],
  ...['[::-1]', '| list', '| length', '~', '**', '%', '//', 'not', 'in', 'is', 'defined', 'loop.index0', 'loop(messages)', 'recursive'],
  ...[
    '"%999d" % 1',
    '"{:>999999}".format(1)',
    'strftime_now("%Y")',
    'raise_exception("x")',
    '{%- break %}',
    'dict(a=1)',
    '| xmlattr',
    '| slice(0)',
  ],
];

const template: Target = {
  seeds: () => templates('.jinja').map((name) => ({ 'template.jinja': bytesOf(`templates/${name}`) })),
  mutator: () => mutateText(templateWords),
  async run(files, parsed) {
    const made = new ChatTemplate(textOf(files['template.jinja']), {
      specialTokens: { bos_token: '<s>', eos_token: '</s>' },
      clock: () => new Date(0),
    });
    for (const { messages, tools } of goldenChats.cases.slice(0, 6)) {
      made.render(messages as never, { tools, addGenerationPrompt: true, place: 'row 1' });
      parsed();
    }
  },
};

const rowWords = [
  ...['messages', 'conversations', 'from', 'value', 'role', 'content', 'tool_calls', 'function', 'arguments', 'name', 'tools', 'text'],
  ...[
    'instruction',
    'input',
    'output',
    'input_ids',
    'labels',
    'system',
    'user',
    'assistant',
    'tool',
    'human',
    'gpt',
    'thinking',
    '\n',
    '}\n{',
  ],
  ...['"messages": [', '-100', '1e-07', '20.0', '"7": 1', '\\ud800', '<|im_end|>', 'prompt', 'completion', 'chosen', 'rejected'],
];

let chat: { tokenizer: Tokenizer; template: ChatTemplate } | undefined;
const rows: Target = {
  seeds() {
    const chats = goldenChats.cases.slice(0, 8).map(({ messages, tools }) => JSON.stringify({ messages, ...(tools && { tools }) }));
    const turns = [
      { from: 'human', value: 'a' },
      { from: 'gpt', value: 'b' },
    ];
    const others = [
      { conversations: turns },
      { instruction: 'a', input: 'b', output: 'c' },
      { text: 'a text' },
      { input_ids: [20, 21, 2], labels: [-100, 21, 2] },
    ];
    return [
      ...[`${chats.join('\n')}\n`, ...others.map((row) => `${JSON.stringify(row)}\n`.repeat(3))].map((text) => ({
        'rows.jsonl': encoded(text),
      })),
      { 'rows.json': encoded(`[${chats.join(',\n')}]`) },
    ];
  },
  mutator: () => (content, random) =>
    (random.next() < 0.2 ? mutateBytes : random.next() < 0.6 ? mutateLine : mutateText(rowWords))(content, random),
  async run(files, parsed) {
    chat ??= { tokenizer: tokenizerOf('byte-level'), template: new ChatTemplate(textOf(bytesOf('templates/chatml.jinja'))) };
    const [[name, bytes]] = Object.entries(files);
    const read = await readRows(new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes), name);
    parsed();
    const strategies = { excess_length_strategy: 'truncate', invalid_rows_strategy: 'raise' } as const;
    await prepareExamples(read, chat.tokenizer, chat.template, { sequence_len: 256, ...strategies });
  },
};

/** One line of JSON changed as a value. */
const mutateLine: Mutator = (content, random) => {
  const lines = textOf(content).split('\n');
  const at = Math.floor(random.next() * lines.length);
  lines[at] = textOf(mutateJson(rowWords)(encoded(lines[at] || '{}'), random));
  return encoded(lines.join('\n'));
};

const recipeWords = [
  ...['\nseed: 7', '\nlora_r: 4', '\nnum_epochs: 2', '\nbf16: auto', '\nsave_steps: 5', '\neot_tokens: [a]', '\nval_set_size: 0.1'],
  ...[
    'base_model: x',
    'datasets:',
    '  - path: rows.jsonl',
    '    type: alpaca',
    'adapter: qlora',
    'lora_r: 8',
    'epochs: 3',
    'batch_size: 4',
  ],
  ...[
    'lora_target_modules: [q_proj]',
    'learning_rate: 1e-4',
    'lora_rank_pattern: {q_proj: 4}',
    '&a',
    '*a',
    '<<: *a',
    '!!binary',
    '? ',
    '| ',
    '> ',
  ],
  ...[
    '\n',
    '  ',
    '\t',
    '---',
    '...',
    '%YAML 1.1',
    '{',
    '[',
    ']',
    '}',
    ': ',
    '- ',
    '#',
    '.inf',
    '.nan',
    '0x7fffffff',
    '1e400',
    'null',
    '~',
    'yes',
  ],
];

const recipe: Target = {
  seeds() {
    const guide = readdirSync(new URL('../../docs', golden)).filter((name) => name.endsWith('.md'));
    const found = guide.flatMap((name) =>
      [...textOf(bytesOf(`../../docs/${name}`)).matchAll(/^```yaml.*\n([\s\S]*?)^```/gm)].map(([, text]) => text),
    );
    return found.filter((text) => text.includes('base_model')).map((text) => ({ 'recipe.yaml': encoded(text) }));
  },
  mutator: () => mutateText(recipeWords),
  async run(files, parsed) {
    const read = parseRecipe(textOf(files['recipe.yaml']), 'recipe.yaml', ['seed=1']);
    parsed();
    checkRecipe(read);
  },
};

export const targets: Readonly<Record<string, Target>> = { safetensors, gguf, model, adapter, tokenizer, template, rows, recipe };
