#!/usr/bin/env node
import { readFileSync } from 'node:fs';
import { Command, CommanderError, InvalidArgumentError, Option } from 'commander';
import '../index.js';
import { datasetKeys, type KeyHelp, recipeKeys } from '../runs/recipe.js';
import { debugLevel } from '../util/debug.js';
import { LowrankError, messageOf } from '../util/errors.js';
import { definitions, Terminal } from './console.js';
import { interruptedExitCode } from './interrupt.js';

const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as { version: string };

// A reader that has seen enough, such as `head`, ends a command that prints; it does not end a training run whose progress it read.
process.stdout.on('error', (error: NodeJS.ErrnoException) => process.exit(error.code === 'EPIPE' ? 0 : 1));
process.stderr.on('error', () => {});

const program = new Command('lowrank')
  .description('Fine-tunes large language models: LoRA or all weights, from one recipe.')
  .version(version)
  .helpOption('-h, --help', 'show help')
  .configureHelp({ showGlobalOptions: true })
  .exitOverride();

/** Adds the options that every command has. */
function command(name: string, description: string): Command {
  return program.command(name).description(description).option('--json', 'print one JSON value on standard output');
}

const device = () =>
  new Option('--device <name>', 'cpu, reference or webgpu (a GPU, not tuned yet); default: the processor').choices([
    'cpu',
    'reference',
    'webgpu',
  ]);
const recipeHelp = () => {
  const list = (keys: KeyHelp[]) => {
    const rows = keys.map(({ key, standard, help }) => [key, [help, standard && `(${standard})`].filter(Boolean).join(' ')] as const);
    return definitions(rows, process.stdout.columns ?? 80);
  };
  const entries = `Keys of an entry of datasets and test_datasets:\n${list(datasetKeys())}`;
  return `\nRecipe keys (defaults in brackets):\n${list(recipeKeys())}\n\n${entries}`;
};

command('train', 'train the adapter or the model that a recipe describes')
  .argument('<recipe>', 'YAML file; see the keys below')
  .argument('[key=value...]', 'settings that replace the recipe’s')
  .option('--resume [checkpoint]', 'go on from the newest checkpoint in output_dir, or from this one')
  .option('--overwrite', 'replace an earlier run in output_dir')
  .option('--preview', 'show the first examples with what is supervised in them, and stop')
  .option('--force', 'train although the plan says that the memory does not hold it')
  .option('--profile <file>', 'write a Chrome trace of one step: ops, shapes, GFLOP/s')
  .addOption(device())
  .addHelpText('after', recipeHelp)
  .action(async (recipe, overrides, options) => {
    const { trainCommand } = await import('./train.js');
    await trainCommand(new Terminal(options.json), recipe, overrides, options);
  });

command('plan', 'what full fine-tuning, LoRA and QLoRA take in memory and time')
  .argument('[recipe]', 'YAML file')
  .argument('[key=value...]', 'settings that replace the recipe’s')
  .option('--model <name>', 'instead of a recipe: Hugging Face id, folder, .gguf file, or a shape such as llama-2-7b')
  .addOption(new Option('--method <name>', 'this one alone').choices(['full', 'lora', 'qlora']))
  .option('--rank <n>', 'rank of the adapters', positive)
  .option('--sequence-len <n>', 'tokens of an example', positive)
  .option('--micro-batch-size <n>', 'examples in a forward pass', positive)
  .option('--memory <size>', 'memory that there is, such as 16GB; default: this machine’s', size)
  .action(async (recipe, overrides, options) => {
    const { planCommand } = await import('./plan.js');
    await planCommand(new Terminal(options.json), recipe, overrides, options);
  });

command('eval', 'loss, perplexity and exact match on a recipe’s held-out data')
  .argument('<recipe>', 'YAML file')
  .argument('[key=value...]', 'settings that replace the recipe’s')
  .option('--adapter <dir>', 'adapter; default: the base model alone')
  .option('--limit <n>', 'questions to be answered at most', positive)
  .addOption(device())
  .action(async (recipe, overrides, options) => {
    const { evalCommand } = await import('./eval.js');
    await evalCommand(new Terminal(options.json), recipe, overrides, options);
  });

answering(command('generate', 'answer one prompt'))
  .argument('[prompt...]', 'default: standard input')
  .option('--raw', 'continue the text itself, without the chat template')
  .action(async (words, options) => {
    const { generateCommand } = await import('./generate.js');
    await generateCommand(new Terminal(options.json), words, options);
  });

answering(program.command('chat').description('talk to a model; /base and /adapter switch the adapter')).action(async (options) => {
  const { chatCommand } = await import('./chat.js');
  await chatCommand(new Terminal(), options);
});

command('merge', 'write the base model with an adapter’s update in its weights')
  .requiredOption('--adapter <dir>', 'adapter')
  .option('--model <name>', 'base; default: what the adapter names')
  .option('--out <dir>', 'folder to be written; default: merged, in the adapter’s')
  .option('--overwrite', 'replace an earlier model in it')
  .option('--max-shard-size <bytes>', 'largest file, such as 5GB', size, 5e9)
  .addOption(device())
  .action(async (options) => {
    const { mergeCommand } = await import('./merge.js');
    await mergeCommand(new Terminal(options.json), options);
  });

command('quantize', 'write a model in 4 or 8 bits, in the format of bitsandbytes')
  .requiredOption('--model <name>', 'Hugging Face id, folder or .gguf file')
  .requiredOption('--out <dir>', 'folder to be written')
  .option('--overwrite', 'replace an earlier model in it')
  .addOption(new Option('--format <name>', 'codes').choices(['nf4', 'fp4', 'int8']).default('nf4'))
  .option('--double', 'quantise the scales of 4 bits as well: 4.127 bits per parameter instead of 4.5')
  .option('--block-size <n>', 'elements of 4 bits that share a scale: a power of two from 32 to 4096', blockSize, 64)
  .option('--max-shard-size <bytes>', 'largest file, such as 5GB', size, 5e9)
  .addOption(device())
  .action(async (options) => {
    const { quantizeCommand } = await import('./quantize.js');
    await quantizeCommand(new Terminal(options.json), options);
  });

command('doctor', 'what this machine offers, and what is wrong').action(async (options) => {
  const { doctorCommand } = await import('./doctor.js');
  await doctorCommand(new Terminal(options.json));
});

command('build-native', 'compile the fast backend for this machine; needs a C++20 compiler')
  .option('--all', 'for every processor of this kind, not this one alone')
  .action(async (options) => {
    const { buildNativeCommand } = await import('./build-native.js');
    buildNativeCommand(new Terminal(options.json), options);
  });

command('quickstart', 'fine-tune a small model on a bundled data set')
  .argument('[key=value...]', 'settings that replace those of examples/orders/recipe.yaml')
  .addOption(device())
  .action(async (overrides, options) => {
    const { quickstartCommand } = await import('./quickstart.js');
    await quickstartCommand(new Terminal(options.json), overrides, options);
  });

function answering(target: Command): Command {
  return target
    .option('--model <name>', 'Hugging Face id, folder or .gguf file; default: the adapter’s base')
    .option('--adapter <dir>', 'adapter')
    .option('--system <text>', 'system message')
    .option('--max-new-tokens <n>', 'longest answer', positive, 256)
    .option('--temperature <t>', '0 takes the most probable token', number, 0)
    .option('--top-k <k>', 'only the k most probable tokens; 0 for all', number, 0)
    .option('--top-p <p>', 'only the most probable tokens with this share together', number, 1)
    .option('--min-p <p>', 'only tokens this probable relative to the best', number, 0)
    .option('--repetition-penalty <x>', '1 for none', number, 1)
    .option(
      '--stop <text>',
      'text that ends an answer; can be repeated',
      (text: string, stops: string[]) => [...stops, text],
      [] as string[],
    )
    .option('--seed <n>', 'of the sampling', number, 0)
    .addOption(device());
}

function number(text: string): number {
  const value = Number(text);
  if (text.trim() === '' || !Number.isFinite(value)) throw new InvalidArgumentError('Expected a number.');
  return value;
}

function positive(text: string): number {
  const value = number(text);
  if (!Number.isInteger(value) || value < 1) throw new InvalidArgumentError('Expected a whole number of at least 1.');
  return value;
}

function blockSize(text: string): number {
  const value = number(text);
  if (value < 32 || value > 4096 || !Number.isInteger(Math.log2(value)))
    throw new InvalidArgumentError('Expected a power of two from 32 to 4096.');
  return value;
}

function size(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*(kB|MB|GB)?$/i.exec(text);
  const unit = { kb: 1e3, mb: 1e6, gb: 1e9 }[(match?.[2] ?? '').toLowerCase()] ?? 1;
  if (!match || Number(match[1]) * unit < 1) throw new InvalidArgumentError('Expected a size such as 500MB or 5GB.');
  return Number(match[1]) * unit;
}

/** Prints an error for people, or with --json as JSON, and sets the exit code. */
function report(error: unknown): void {
  if (error instanceof CommanderError) {
    process.exitCode = error.exitCode;
    return;
  }
  const terminal = new Terminal(process.argv.includes('--json'));
  if (error instanceof Error && error.name === 'AbortError') {
    process.exitCode = interruptedExitCode;
    return;
  }
  const known = error instanceof LowrankError;
  const { problem, place, expected, mend } = known
    ? error
    : { problem: messageOf(error), place: undefined, expected: undefined, mend: undefined };
  if (terminal.json) terminal.result({ error: { problem, place, expected, mend } }, '');
  terminal.note(`${terminal.colors.red('error:')} ${messageOf(error)}`);
  // A failure that nobody foresaw is told with its trace.
  if ((!known || debugLevel > 0) && error instanceof Error) terminal.note(error.stack ?? '');
  process.exitCode = 1;
}

await program.parseAsync().catch(report);
