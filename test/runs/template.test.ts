import { mkdtempSync, openSync, readFileSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { previewRun, type RecipeInput, startRun } from '../../src/index.js';
import { localFolder } from '../../src/io/node/folder.js';
import { openFile } from '../../src/io/node.js';
import { readSafetensors } from '../../src/io/safetensors.js';
import { namedTemplates } from '../../src/models/templates/index.js';
import { openAdapterCodec } from '../../src/runs/contract.js';
import { openModel } from '../../src/runs/node.js';

import { chatml } from '../data/golden.js';
import { rows, writeRows, writeTinyModel } from '../helpers/tiny-model.js';

const root = mkdtempSync(join(tmpdir(), 'lowrank-template-'));
const at = (name: string) => join(root, name);
afterAll(() => rmSync(root, { recursive: true }));

/** A base as pretraining leaves it: without a chat template. */
async function writeBase(name: string, more: Record<string, unknown> = {}): Promise<void> {
  await writeTinyModel(at(name), more);
  const { chat_template: _, ...config } = JSON.parse(readFileSync(join(at(name), 'tokenizer_config.json'), 'utf8'));
  writeFileSync(join(at(name), 'tokenizer_config.json'), JSON.stringify(config));
}

/** Overwrites the row of a token in a stored matrix. */
async function setRow(model: string, matrix: string, token: string, values: Float32Array): Promise<void> {
  const path = join(at(model), 'model.safetensors');
  const checkpoint = await readSafetensors(await openFile(path));
  const { offset } = checkpoint.tensors.get(matrix)!;
  await checkpoint.close();
  const file = openSync(path, 'r+');
  writeSync(file, new Uint8Array(values.buffer), 0, values.byteLength, offset + values.byteLength * chatml.tokenToId(token)!);
}

const recipe = (settings: Partial<RecipeInput>): RecipeInput => ({
  base_model: at('base'),
  datasets: [at('rows.jsonl')],
  output_dir: at('out'),
  max_steps: 1,
  ...settings,
});

/** The first example as it would be trained, and what is said of it. */
async function preview(settings: Partial<RecipeInput>): Promise<{ text: string; warnings: string[] }> {
  const warnings: string[] = [];
  const onEvent = (event: { type: string; message?: string }) => event.type === 'warning' && warnings.push(event.message!);
  const { shown } = await previewRun(recipe(settings), { near: root, onEvent } as never, 1);
  return { text: shown[0].sequences[0].map(({ text }) => text).join(''), warnings };
}

const [{ messages: first }] = rows(4);
const [question, answer] = first.map(({ content }) => content);

beforeAll(async () => {
  await writeBase('base');
  await writeTinyModel(at('chat'));
  writeRows(at('rows.jsonl'), 4);
});

describe('a base without a chat template', () => {
  test('is trained and answers by a named one, which its result keeps as text', async () => {
    await startRun(recipe({ chat_template: 'llama3', lora_r: 2, output_dir: at('named') }), { near: root });
    expect(JSON.parse(readFileSync(join(at('named'), 'lowrank.json'), 'utf8'))).toMatchObject({
      chat_template: namedTemplates.llama3,
      framing: 'chat',
      terminators: [{ token: '<|eot_id|>' }],
    });
    const source = await openModel(at('base'));
    const codec = await openAdapterCodec(source, localFolder(at('named')));
    await source.checkpoint.close();
    const { text } = codec.template!.render([{ role: 'user', content: 'a' }], { addGenerationPrompt: true });
    expect(text).toContain('<|start_header_id|>user<|end_header_id|>\n\na<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n');
  });

  test('refuses conversations where none is named, and says how to name one', async () => {
    await expect(preview({})).rejects.toThrow(/has no chat template, .*\n.*chat_template: chatml/s);
    await expect(preview({ chat_template: 'tokenizer_default' })).rejects.toThrow(/tokenizer_default, and .*base has no chat template/);
    await expect(preview({ chat_template: 'llama4' })).rejects.toThrow(
      /chat_template: there is no such template\n.*expected.*alpaca, chatml/s,
    );
  });

  test('takes the one that a fallback names, and a model with a template keeps its own', async () => {
    const chat_template = 'tokenizer_default_fallback_gemma';
    expect((await preview({ chat_template })).text).toContain(`<start_of_turn>user\n${question}<end_of_turn>`);
    expect((await preview({ chat_template, base_model: at('chat') })).text).toContain(`<|im_start|>user\n${question}<|im_end|>`);
  });

  test('takes a text in Jinja, or a file of it beside the recipe', async () => {
    const own = '{% for m in messages %}<{{ m.role }}>{{ m.content }}<|im_end|>{% endfor %}';
    writeFileSync(at('own.jinja'), own);
    const wanted = `<user>${question}<|im_end|><assistant>${answer}<|im_end|>`;
    expect((await preview({ chat_template: 'jinja', chat_template_jinja: own })).text).toBe(wanted);
    expect((await preview({ chat_template_jinja: 'own.jinja' })).text).toBe(wanted);
    await expect(preview({ chat_template_jinja: 'none.jinja' })).rejects.toThrow(/none\.jinja: there is no such file/);
    await expect(preview({ chat_template: 'jinja' })).rejects.toThrow(/there is no chat_template_jinja/);
    await expect(preview({ chat_template: 'gemma', chat_template_jinja: own })).rejects.toThrow(/chat_template is gemma, and there is a/);
  });
});

describe('what a base cannot learn of a template’s end is said', () => {
  test('an end that is no token of the vocabulary is refused, with templates that would do', async () => {
    await expect(preview({ chat_template: 'phi_35' })).rejects.toThrow(
      /chat_template phi_35 ends answers with "<\|end\|>", which for .*base is no token but \d pieces.*: alpaca, chatml, .*gemma/s,
    );
    await expect(preview({ chat_template: 'tokenizer_default_fallback_phi_3' })).rejects.toThrow(/is no token but/);
    expect((await preview({ chat_template: 'chatml' })).warnings).toEqual([]);
  });

  test('an end whose embedding is all zeros or that of another token, unless it is trained', async () => {
    await writeBase('untrained', { tie_word_embeddings: false });
    const width = 48;
    await setRow('untrained', 'model.embed_tokens.weight', '<end_of_turn>', new Float32Array(width));
    for (const token of ['<|eot_id|>', '<|end_header_id|>'])
      await setRow('untrained', 'lm_head.weight', token, new Float32Array(width).fill(0.5));
    const untrained = { base_model: at('untrained') };
    const { warnings } = await preview({ ...untrained, chat_template: 'gemma' });
    expect(warnings).toEqual([
      expect.stringMatching(
        /with "<end_of_turn>", whose embedding was never .*: write lora_modules_to_save: \[embed_tokens, lm_head\], or .*: alpaca, chatml/,
      ),
    ]);
    expect((await preview({ ...untrained, chat_template: 'llama3' })).warnings).toEqual([
      expect.stringMatching(/with "<\|eot_id\|>", whose embedding/),
    ]);
    const saved = { lora_modules_to_save: ['embed_tokens', 'lm_head'] };
    expect((await preview({ ...untrained, ...saved, chat_template: 'gemma' })).warnings).toEqual([]);
    expect((await preview({ ...untrained, adapter: 'full', chat_template: 'gemma' })).warnings).toEqual([]);
    expect((await preview({ chat_template: 'gemma' })).warnings).toEqual([]);
  });
});

describe('special_tokens', () => {
  test('of the vocabulary stand where templates and ends ask for them, also in the result', async () => {
    const special_tokens = { eos_token: '<|im_end|>', bos_token: '<bos>' };
    const settings = { chat_template: 'alpaca', special_tokens };
    expect((await preview(settings)).text).toMatch(/^<bos>### Instruction:.*<\|im_end\|>$/s);
    await startRun(recipe({ ...settings, lora_r: 2, output_dir: at('special') }), { near: root });
    expect(JSON.parse(readFileSync(join(at('special'), 'tokenizer_config.json'), 'utf8'))).toMatchObject(special_tokens);
    expect(JSON.parse(readFileSync(join(at('special'), 'lowrank.json'), 'utf8')).terminators).toMatchObject([{ token: '<|im_end|>' }]);
  });

  test('become special in tokenizer.json', async () => {
    const settings = { chat_template: 'chatml', special_tokens: { additional_special_tokens: ['<think>'] } };
    await startRun(recipe({ ...settings, lora_r: 2, output_dir: at('thinking') }), { near: root });
    const { added_tokens } = JSON.parse(readFileSync(join(at('thinking'), 'tokenizer.json'), 'utf8'));
    expect(added_tokens.find(({ content }: { content: string }) => content === '<think>')).toMatchObject({ special: true });
  });

  test('that the vocabulary does not have are refused', async () => {
    await expect(preview({ chat_template: 'alpaca', special_tokens: { pad_token: '<pad>' } })).rejects.toThrow(
      /special_tokens: "<pad>" not in the vocabulary\n.*"<\|endoftext\|>", "<\|im_start\|>"/s,
    );
  });
});
