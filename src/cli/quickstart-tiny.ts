import { ReferenceBackend } from '../backends/reference/index.js';
import { empty, type Tensor } from '../core/tensor.js';
import { type Row, readRows } from '../data/rows.js';
import type { ModelSource } from '../io/model-source.js';
import { encodeSafetensors } from '../io/safetensors.js';
import { openModelFromFiles } from '../models/chosen-files.js';
import { buildModel } from '../models/load.js';
import { Builder } from '../nn/builder.js';
import { parseRecipe } from '../runs/recipe.js';
import type { JsonObject } from '../util/json.js';
import { Random, streams } from '../util/philox.js';
import type { Terminal } from './console.js';
import type { QuickstartJob } from './quickstart.js';

const tinyName = 'a tiny Llama with random weights';

/** What the plain loops of `reference` learn in about a minute: orders of one or two things become JSON. */
const tinyRecipe = `
base_model: ${tinyName}
adapter: full
bf16: false
datasets: [orders]
test_datasets: [held-out orders]
val_set_size: 32
sequence_len: 64
micro_batch_size: 16
num_epochs: 10
learning_rate: 0.005
lr_scheduler: cosine
warmup_ratio: 0.05
eval_max_new_tokens: 16
logging_steps: 10
save_total_limit: 1
output_dir: ./model-out/tiny
`;

const numbers = ['one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine'];
const products = ['tea', 'cake', 'bagel', 'muffin', 'pie', 'rose', 'pen', 'lamp'];
const phrases = { one: (a: string) => `${a}, please`, two: (a: string, b: string) => `${a} and ${b}, please` };
const counts = { train: 288, test: 40 };

/** One row of a chat, `seven teas and a cake, please` → `{"tea":7,"cake":1}`. */
function order(items: readonly (readonly [product: string, number: number])[]): object {
  const said = items.map(([product, number]) => `${numbers[number - 1]} ${product}${number > 1 ? 's' : ''}`);
  const content = said.length === 1 ? phrases.one(said[0]) : phrases.two(said[0], said[1]);
  const answer = `{${items.map(([product, number]) => `"${product}":${number}`).join(',')}}`;
  return {
    messages: [
      { role: 'user', content },
      { role: 'assistant', content: answer },
    ],
  };
}

/** Rows to train with and rows that are held out, none twice. */
async function tinyRows(seed: number): Promise<{ train: Row[]; test: Row[] }> {
  const random = new Random(seed, streams.init);
  const draw = <T>(list: readonly T[]) => list[Math.floor(random.next() * list.length)];
  const lines = new Set<string>();
  while (lines.size < counts.train + counts.test) {
    const [a, b] = [draw(products), draw(products)];
    const item = (product: string) => [product, 1 + Math.floor(random.next() * numbers.length)] as const;
    lines.add(JSON.stringify(order(a === b ? [item(a)] : [item(a), item(b)])));
  }
  const all = [...lines];
  return {
    train: await readRows(all.slice(0, counts.train).join('\n'), 'orders'),
    test: await readRows(all.slice(counts.train).join('\n'), 'held-out orders'),
  };
}

const special = ['<|end|>', '<|user|>', '<|assistant|>'];

/** A tokenizer of the words that the rows are made of, and of single characters for anything else. */
function tinyTokenizer(): { tokenizerJson: JsonObject; tokenizerConfig: JsonObject; vocabulary: number } {
  const characters = Array.from({ length: 95 }, (_, i) => String.fromCharCode(32 + i).replace(' ', 'Ġ'));
  const words = [
    ...numbers,
    ...numbers.map((number) => ` ${number}`),
    ...products.flatMap((product) => [` ${product}s`, ` ${product}`, `"${product}":`]),
    ...[', please', ' and'],
  ];
  // Longer ones first: " teas" before " tea".
  const added = [...special, ...words.sort((a, b) => b.length - a.length)].map((content, i) => ({
    id: characters.length + i,
    content,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: special.includes(content),
  }));
  const byteLevel = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: false, use_regex: true };
  const vocab = Object.fromEntries(characters.map((character, i) => [character, i]));
  const template =
    `{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endfor %}{% if ` +
    `add_generation_prompt %}<|assistant|>{% endif %}`;
  return {
    tokenizerJson: {
      version: '1.0',
      added_tokens: added,
      pre_tokenizer: byteLevel,
      decoder: byteLevel,
      model: { type: 'BPE', vocab, merges: [] },
    },
    tokenizerConfig: { eos_token: special[0], chat_template: template },
    vocabulary: characters.length + added.length,
  };
}

/** Asks an architecture for the names and shapes of its tensors. */
class Shapes extends Builder {
  readonly shapes = new Map<string, readonly number[]>();
  private readonly backend = new ReferenceBackend();

  constructor(config: JsonObject) {
    super({ name: 'tiny', tensors: new Map() });
    buildModel({ name: 'tiny', config }, this, this.backend, 'f32');
  }

  override take(name: string, shape: readonly number[]): Tensor {
    this.shapes.set(name, shape);
    return empty(this.backend, shape, 'f32', 'weights');
  }

  override finish(): void {}
}

/** The model as files in Hugging Face's layout that exist in memory alone. */
async function tinyModel(seed: number): Promise<ModelSource> {
  const { tokenizerJson, tokenizerConfig, vocabulary } = tinyTokenizer();
  const config: JsonObject = {
    model_type: 'llama',
    architectures: ['LlamaForCausalLM'],
    hidden_size: 48,
    intermediate_size: 96,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    num_key_value_heads: 4,
    vocab_size: vocabulary,
    max_position_embeddings: 64,
    rms_norm_eps: 1e-5,
    tie_word_embeddings: false,
  };
  const random = new Random(seed, streams.init + 1);
  const tensors = [...new Shapes(config).shapes].map(([name, shape]) => {
    const size = shape.reduce((product, n) => product * n, 1);
    const draw = shape.length === 1 ? () => 1 : () => shape[1] ** -0.5 * random.normal();
    return { name, dtype: 'F32', shape, data: async () => new Uint8Array(Float32Array.from({ length: size }, draw).buffer) };
  });
  const weights: Uint8Array[] = [];
  for await (const chunk of encodeSafetensors(tensors)) weights.push(chunk);
  const json = (name: string, value: JsonObject) => new File([JSON.stringify(value)], name);
  return openModelFromFiles(
    [
      json('config.json', config),
      json('tokenizer.json', tokenizerJson),
      json('tokenizer_config.json', tokenizerConfig),
      new File(weights as BlobPart[], 'model.safetensors'),
    ],
    tinyName,
  );
}

/** A job that plain loops finish in about a minute. */
export async function tinyOrders(overrides: readonly string[]): Promise<QuickstartJob> {
  const recipe = parseRecipe(tinyRecipe, 'the quickstart’s recipe', overrides);
  const { train, test } = await tinyRows(recipe.seed);
  return {
    recipe,
    source: await tinyModel(recipe.seed),
    datasets: [{ dataset: recipe.datasets[0], rows: train }],
    tests: [{ dataset: recipe.datasets[0], rows: test }],
  };
}

/** How a compiler is installed. */
const compilers: Partial<Record<NodeJS.Platform, string>> = {
  darwin: 'xcode-select --install',
  linux: 'sudo apt install g++      # or: sudo dnf install gcc-c++, sudo apk add g++',
};

/** Says why a tiny model is trained, and how the real one would be. */
export function tellOfCompiler(terminal: Terminal, missing: boolean): void {
  terminal.note('Plain loops ("reference") would train the real model for hours. What follows is');
  terminal.note('the same with a tiny model made of random numbers, in about a minute.');
  if (!missing) return;
  const compiler = compilers[process.platform] ?? 'on Windows: work in WSL, with sudo apt install g++';
  terminal.note('To train the real one in minutes, install a C++20 compiler, then build:\n');
  terminal.note(`    ${compiler}\n    npx lowrank build-native\n    npm run quickstart\n`);
}
