/** What makes JSON Lines of files that are not read themselves, by the ends of their names: one line for a shell each. */
const conversions: readonly (readonly [ending: RegExp, command: (path: string, to: string) => string])[] = [
  [/\.parquet$/, (path, to) => `python3 -c "import pandas; pandas.read_parquet('${path}').to_json('${to}', orient='records', lines=True)"`],
  [
    /\.(csv|tsv)$/,
    (path, to) => {
      const delimiter = path.endsWith('.tsv') ? ", delimiter='\\t'" : '';
      const rows = `csv.DictReader(open('${path}', newline='', encoding='utf-8')${delimiter})`;
      return `python3 -c "import csv, json; [print(json.dumps(row)) for row in ${rows}]" > ${to}`;
    },
  ],
  [
    /\.txt$/,
    (path, to) =>
      `python3 -c "import json; [print(json.dumps({'text': line.rstrip()})) for line in open('${path}', encoding='utf-8')]" > ${to}`,
  ],
  [/\.jsonl?\.(gz|zst|bz2)$/, (path, to) => `${{ gz: 'gzip', zst: 'zstd', bz2: 'bzip2' }[path.split('.').at(-1)!]} -dc ${path} > ${to}`],
];

/** How a data set that is no .jsonl or .json file becomes one, for an error's last line. */
export function howToConvert(path: string): string {
  const command = conversions.find(([ending]) => ending.test(path))?.[1];
  if (command) {
    const to = path.replace(/(\.jsonl?)?\.\w+$/, '.jsonl');
    return `convert it: ${command(path, to)}; then write ${to}`;
  }
  if (/^[\w.-]+\/[\w.-]+$/.test(path) && !/\.\w{1,5}$/.test(path)) {
    const to = `${path.split('/')[1]}.jsonl`;
    const load = `load_dataset('${path}', split='train').to_json('${to}')`;
    return `of a data set on the hub: pip install datasets, python3 -c "from datasets import load_dataset; ${load}"; then write ${to}`;
  }
  return 'correct the path, or write its rows as JSON, one object a line, into a .jsonl file';
}
