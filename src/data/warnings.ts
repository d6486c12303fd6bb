import { counted } from '../util/format.js';
import type { Finding } from './checks.js';
import type { DataStatistics } from './prepare.js';

/**
 * What is to be said of a data set's preparation, a sentence each: rows that were left out or cut, content that is not trained as it
 * stands.
 */
export function dataWarnings(statistics: DataStatistics, path: string, sequence_len: number): string[] {
  const { dropped, emptied, truncated, unended, invalid, invalid_example, findings } = statistics;
  const sentences: string[] = [];
  const tooLong = dropped - emptied;
  const be = (count: number) => (count === 1 ? 'was' : 'were');
  if (tooLong > 0)
    sentences.push(
      `${rowsOf(tooLong)} of ${path} ${tooLong === 1 ? 'is' : 'are'} longer than sequence_len ${sequence_len} and ${be(tooLong)} dropped`,
    );
  if (truncated > 0) {
    const within = unended > 0 ? `, ${unended} of them within a trained text, whose end is not learnt` : '';
    sentences.push(`${rowsOf(truncated)} of ${path} ${be(truncated)} cut to sequence_len ${sequence_len}${within}`);
  }
  if (emptied > 0)
    sentences.push(
      `${rowsOf(emptied)} of ${path}, cut to sequence_len ${sequence_len}, held nothing supervised and ${be(emptied)} left out`,
    );
  if (invalid > 0)
    sentences.push(`${rowsOf(invalid)} of ${path} cannot be trained and ${be(invalid)} left out, such as ${invalid_example}`);
  return [...sentences, ...describeFindings(findings, path)];
}

const rowsOf = (count: number) => counted(count, 'row');

/** A sentence for each finding, which names the row; all columns are one. */
function describeFindings(findings: readonly Finding[], path: string): string[] {
  const columns = findings.filter(({ kind }) => kind === 'column');
  const listed = columns.map((column) => `"${column.subject}" (${rowsOf(column.count)}, such as ${column.place}: ${column.example})`);
  const head = listed.length > 0 ? [`of ${path} nothing reads the column${listed.length > 1 ? 's' : ''} ${listed.join(', ')}`] : [];
  return [...head, ...findings.filter(({ kind }) => kind !== 'column').map((finding) => describe(finding, path))];
}

function describe({ kind, subject, count, place, example }: Finding, path: string): string {
  const [role, key] = subject.split(' ');
  const where = `of ${path}, such as ${place}`;
  const messages = counted(count, 'message');
  switch (kind) {
    case 'key': {
      const flag = /^(true|false|0|1)$/.test(example) ? `; if it says what is trained, write message_field_training: ${key}` : '';
      return `the chat template does not read "${key}" of ${role} messages: ${messages} ${where}: ${example}${flag}`;
    }
    case 'text':
      return `the chat template leaves out text of "${key}" of ${role} messages: ${messages} ${where}: ${example}`;
    case 'tools':
      return `the chat template does not show the tools of ${rowsOf(count)} ${where}: ${example}`;
    case 'prompt':
      return (
        `the generation prompt is not how the trained text begins an answer: ${rowsOf(count)} looked at ${where}: ${example}, ` +
        'so that answers begin in a way that was not trained'
      );
    case 'header':
      return (
        `the chat template has no generation prompt: answers begin with ${example} in the training, which is not learnt, and are asked ` +
        `for without it: ${rowsOf(count)} looked at ${where}; give the template a part {% if add_generation_prompt %} that prints it`
      );
    case 'arguments':
      return `the arguments of ${counted(count, 'tool call')} are a text and no JSON object, ${where}: ${example}`;
    case 'surrogate':
      return (
        `${rowsOf(count)} ${count === 1 ? 'holds' : 'hold'} half of a character (a lone surrogate), which becomes U+FFFD: ` +
        `${where}: ${example}`
      );
    case 'character':
      return (
        `${rowsOf(count)} ${count === 1 ? 'holds' : 'hold'} characters for which the vocabulary has no token, so that they are lost: ` +
        `${where}: ${example}`
      );
    case 'empty':
      return `${counted(count, `trained ${subject}`)} ${count === 1 ? 'is' : 'are'} empty, and only an end is learnt there: ${where}`;
    case 'column':
      return '';
  }
}
