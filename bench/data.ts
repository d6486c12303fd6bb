/**
 * The suite `data`: chats turned into token ids and labels, ours and by Python's `tokenizers` and `transformers` (`apply_chat_template`
 * with the mask of the assistant's tokens), the same rows by the same tokenizer, taking turns. Figures are tokens per second of a
 * processor's core, so that neither gains by threads; ours begins with a file and includes the threads' start.
 */
import { createWriteStream, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { finished } from 'node:stream/promises';
import { nodeHost } from '#lowrank/runs/node.js';
import { Random } from '#lowrank/util/philox.js';
import { preparePeers } from '../tools/golden/venv.js';
import { Contender, median } from './contender.js';
import { type Bench, judged, ours, peer, type Row, root, round } from './suite.js';

const rounds = 3;
const cases = [
  { name: 'chats of 100 tokens', rows: 40_000, turns: 2, words: 20 },
  { name: 'chats of 1,000 tokens', rows: 4_000, turns: 10, words: 54 },
];

/** Both sides render this: ChatML, its generation blocks for the peer, which masks by nothing else. */
const template =
  `{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}` +
  `{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}` +
  `{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}`;

/** What either side is asked to prepare. */
export interface DataRun {
  rows: string;
  /** The folder of the tokenizer's files. */
  tokenizer: string;
  template: string;
}

interface Prepared {
  tokens: number;
  supervised: number;
  /** Of all cores together, and by the clock. */
  cpu_seconds: number;
  seconds: number;
  peak_rss_gb: number;
}

/** English as it comes: the project's own pages, cut into words. */
async function writeRows(path: string, { rows, turns, words }: (typeof cases)[number], text: string): Promise<void> {
  const random = new Random(1, 0);
  const all = text.split(/\s+/);
  const sentence = () => Array.from({ length: words }, () => all[Math.floor(random.next() * all.length)]).join(' ');
  const file = createWriteStream(path);
  for (let i = 0; i < rows; i++) {
    const messages = Array.from({ length: turns }, (_, turn) => ({ role: turn % 2 === 0 ? 'user' : 'assistant', content: sentence() }));
    if (!file.write(`${JSON.stringify({ messages })}\n`)) await new Promise<void>((resume) => file.once('drain', resume));
  }
  file.end();
  await finished(file);
}

async function writeTokenizer(folder: string): Promise<void> {
  const source = await nodeHost.openModel(preparePeers().model);
  await source.checkpoint.close();
  writeFileSync(join(folder, 'tokenizer.json'), JSON.stringify(source.tokenizer.tokenizerJson));
  writeFileSync(join(folder, 'tokenizer_config.json'), JSON.stringify(source.tokenizer.tokenizerConfig));
}

const figures = (runs: readonly Prepared[]) => ({
  tokens_per_second: round(median(runs.map(({ tokens, cpu_seconds }) => tokens / cpu_seconds))),
  by_the_clock: round(median(runs.map(({ tokens, seconds }) => tokens / seconds))),
  peak_rss_gb: round(Math.max(...runs.map(({ peak_rss_gb }) => peak_rss_gb))),
});

export async function dataSuite(bench: Bench): Promise<Row[]> {
  const folder = resolve(root, 'build/bench/data');
  mkdirSync(folder, { recursive: true });
  await writeTokenizer(folder);
  const text = readFileSync(join(root, 'docs/LOG.md'), 'utf8');
  const rows: Row[] = [];
  for (const entry of cases.filter(({ name }) => name.includes(bench.only ?? ''))) {
    bench.note(entry.name);
    const path = join(folder, `${entry.rows}.jsonl`);
    await writeRows(path, entry, text);
    const run = JSON.stringify({ rows: path, tokenizer: folder, template } satisfies DataRun);
    const contenders = [
      new Contender('lowrank', process.execPath, [ours('data'), run]),
      new Contender('Python', bench.python, [peer('data'), run]),
    ];
    const measured: Prepared[][] = [[], []];
    for (let i = 0; i < rounds; i++) for (const [k, contender] of contenders.entries()) measured[k].push(await contender.ask<Prepared>({}));
    await Promise.all(contenders.map((contender) => contender.close()));
    const [[mine], [theirs]] = measured;
    if (mine.tokens !== theirs.tokens || mine.supervised !== theirs.supervised)
      throw new Error(
        `ours has ${mine.tokens} tokens, ${mine.supervised} supervised; the peer's are ${theirs.tokens} and ${theirs.supervised}`,
      );
    const [own, other] = measured.map(figures);
    const goal = { speed: 0.8, peak_rss_gb: 1.2 };
    rows.push(
      judged({
        case: `${entry.name}: Python`,
        ours: own,
        peer: other,
        speed: round(own.tokens_per_second / other.tokens_per_second),
        goal,
      }),
    );
  }
  return rows;
}
