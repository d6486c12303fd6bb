/** Preparing of ours, a file of rows for each request, as a run does it. The only argument is a DataRun as JSON. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { openTextCodec } from '#lowrank/models/text-model.js';
import { openDatasets, prepareData } from '#lowrank/runs/data.js';
import { nodeHost } from '#lowrank/runs/node.js';
import { checkRecipe } from '#lowrank/runs/recipe.js';
import { serve } from '../contender.js';
import type { DataRun } from '../data.js';
import { peakRssGb } from '../machine.js';

const run = JSON.parse(process.argv[2]) as DataRun;
const [tokenizerJson, tokenizerConfig] = ['tokenizer.json', 'tokenizer_config.json'].map((name) =>
  JSON.parse(readFileSync(join(run.tokenizer, name), 'utf8')),
);
const codec = openTextCodec({ name: run.tokenizer, config: {}, tokenizer: { tokenizerJson, tokenizerConfig } }, { jinja: run.template });
const recipe = checkRecipe(
  { base_model: run.tokenizer, output_dir: run.tokenizer, sequence_len: 4096, datasets: [{ path: run.rows }] },
  'data',
);

await serve(async () => {
  const [start, used] = [performance.now(), process.cpuUsage()];
  const datasets = await openDatasets(nodeHost, recipe.datasets, { name: 'data' });
  const { statistics } = await prepareData(recipe, codec, datasets, [], { host: nodeHost });
  const { user, system } = process.cpuUsage(used);
  const [{ tokens, supervised }] = statistics.map((entry) => entry.statistics);
  return { tokens, supervised, cpu_seconds: (user + system) / 1e6, seconds: (performance.now() - start) / 1000, peak_rss_gb: peakRssGb() };
});
