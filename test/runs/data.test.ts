import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Tokenizer } from '../../src/data/tokenizer.js';
import { gatherRows, openDatasets, prepareData } from '../../src/runs/data.js';
import { nodeHost } from '../../src/runs/node.js';
import { checkRecipe } from '../../src/runs/recipe.js';
import { chatml, chatmlTemplate } from '../data/golden.js';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'lowrank-data-'));
});
afterAll(() => rm(folder, { recursive: true }));

async function prepared(content: string | Uint8Array, { name = 'rows.jsonl', tokenizer = chatml, ...keys }: Record<string, unknown> = {}) {
  const path = join(folder, name as string);
  await writeFile(path, content);
  const recipe = checkRecipe({ base_model: 'm', output_dir: 'o', datasets: [{ path }], ...keys }, 'recipe');
  const datasets = await openDatasets(nodeHost, recipe.datasets, { name: 'recipe' });
  return {
    datasets,
    data: () =>
      prepareData(recipe, { tokenizer: tokenizer as Tokenizer, template: chatmlTemplate } as never, datasets, [], { host: nodeHost }),
  };
}

const tokens = '{"input_ids": [5, 6, 2], "labels": [-100, 6, 2]}\n';

test('a file may have more rows than a call has room for arguments, and so may what is held out', async () => {
  const { data } = await prepared(tokens.repeat(300_000), { val_set_size: 140_000 });
  const { train, held, statistics } = await data();
  expect([train.length, held.length]).toEqual([160_000, 140_000]);
  expect(statistics[0].statistics).toMatchObject({ rows: 300_000, examples: 300_000, tokens: 900_000, supervised: 600_000 });
  expect(held.at(-1)!.row).toMatch(/rows\.jsonl:\d{5,6}$/);
});

test('the rows of a file are those of its text, in an array as in lines', async () => {
  const { datasets } = await prepared('[\n{"text": "a"},\n{"text": "b"}]', { name: 'rows.json' });
  expect(await gatherRows(datasets[0])).toEqual(
    ['a', 'b'].map((text, i) => ({ value: { text }, place: join(folder, `rows.json:${i + 2}`) })),
  );
  expect(await gatherRows(datasets[0], ({ value }) => value.text === 'b')).toHaveLength(1);
});

test('a token that the model has no embedding for is refused when data are read, by row, text, id and rows', async () => {
  const { tokenizerJson, tokenizerConfig } = chatml.files;
  const extra = {
    id: chatml.vocabSize,
    content: '<|extra|>',
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: true,
  };
  const added = [...(tokenizerJson.added_tokens as object[]), extra] as never;
  const tokenizer = new Tokenizer(
    { tokenizerJson: { ...tokenizerJson, added_tokens: added }, tokenizerConfig },
    { embeddingRows: chatml.vocabSize },
  );
  const row = (text: string) => `{"messages": [{"role": "user", "content": "${text}"}, {"role": "assistant", "content": "b"}]}\n`;
  const { data } = await prepared(row('a') + row('x <|extra|>'), { tokenizer });
  const rows = chatml.vocabSize;
  await expect(data()).rejects.toThrow(
    `rows.jsonl:2: the token "<|extra|>" has the id ${rows}, and the model's embedding has ${rows} rows\n`,
  );
});
