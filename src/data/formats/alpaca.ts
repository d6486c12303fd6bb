import { isObject, type JsonValue } from '../../util/json.js';
import type { Format } from './index.js';
import type { RowReader } from './reader.js';
import { kindOf, saysNothing } from './reader.js';

/** What stands around an instruction: a row's `system` and `history` columns. */
export interface AlpacaContext {
  /** Stands in the place of "Below is an instruction …". */
  system?: string;
  /** Earlier instructions with their answers, which are read and not trained. */
  history?: readonly (readonly [instruction: string, output: string])[];
}

/**
 * The prompt of the Alpaca data set, in the wording that Axolotl's `alpaca` trains with; `system` and `history` as in LLaMA-Factory's
 * files. https://github.com/axolotl-ai-cloud/axolotl/blob/main/src/axolotl/prompters.py
 */
export function alpacaPrompt(instruction: string, input: string, { system, history = [] }: AlpacaContext = {}): string {
  const task = 'Below is an instruction that describes a task';
  const context = input ? ', paired with an input that provides further context' : '';
  const head = system || `${task}${context}. Write a response that appropriately completes the request.`;
  const turns = history.map(([asked, answer]) => `### Instruction:\n${asked}\n\n### Response:\n${answer}\n\n`).join('');
  return `${head}\n\n${turns}### Instruction:\n${instruction}\n\n${input ? `### Input:\n${input}\n\n` : ''}### Response:\n`;
}

/** `instruction`, `output` and, where they say something, `input`, `system` and `history`. */
export const alpaca: Format = {
  keys: [['instruction', 'output']],
  read(row) {
    const context = { system: row.optionalText('system'), history: readHistory(row) };
    const prompt = alpacaPrompt(row.text('instruction'), row.optionalText('input'), context);
    return { kind: 'text', prompt, completion: row.text('output') };
  },
};

function readHistory(row: RowReader): [string, string][] {
  const history = row.optional('history');
  if (saysNothing(history)) return [];
  return row.list('history').map((turn: JsonValue, i) => {
    const [asked, answer] = Array.isArray(turn) ? turn : isObject(turn) ? [turn.instruction, turn.output] : [];
    if (typeof asked === 'string' && typeof answer === 'string') return [asked, answer];
    throw row.fail(`history[${i}] is ${kindOf(turn)}`, 'a pair [instruction, output] of texts');
  });
}
