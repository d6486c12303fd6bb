/**
 * `npm run fuzz -- KIND --seconds N --seed S`: gives changed files to what reads them, and says what died, hung, grew or threw something
 * else than a LowrankError. `all` is every kind in turn. `--replay FOLDER` runs one input again.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { targets } from './targets.js';
import { fuzz, replayFolder } from './watch.js';

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: {
    seconds: { type: 'string', default: '60' },
    inputs: { type: 'string' },
    seed: { type: 'string', default: '1' },
    replay: { type: 'string' },
  },
});
const [kind = ''] = positionals;
const kinds = kind === 'all' ? Object.keys(targets) : [kind];
if (kinds.some((each) => !Object.hasOwn(targets, each))) {
  console.error(
    `usage: npm run fuzz -- KIND [--seconds 60] [--inputs N] [--seed 1] [--replay FOLDER]\nKIND: all, ${Object.keys(targets).join(', ')}`,
  );
  process.exit(2);
}

if (values.replay !== undefined) {
  const folder = resolve(values.replay);
  const files = Object.fromEntries(readdirSync(folder).map((name) => [name, new Uint8Array(readFileSync(join(folder, name)))]));
  const { end, raw, cpuSeconds, growth } = await replayFolder(files, { kind });
  console.log(
    end !== 'ended'
      ? `it ${end} (with 350 MB of memory and 30 s of processor time)`
      : `${cpuSeconds.toFixed(2)} s, ${Math.round(growth / 1e6)} MB more`,
  );
  if (raw !== undefined) console.log(raw);
  process.exit(end !== 'ended' || raw !== undefined ? 1 : 0);
}

let failed = false;
for (const each of kinds) {
  const options = { kind: each, seed: Number(values.seed), seconds: Number(values.seconds), failures: resolve('build/fuzz') };
  const report = await fuzz({ ...options, inputs: values.inputs === undefined ? undefined : Number(values.inputs) });
  const { inputs, parsed, kept, places, failures } = report;
  const count = (what: string) => failures.filter((failure) => failure.what === what).length;
  const share = inputs === 0 ? 0 : (100 * parsed) / inputs;
  console.log(
    `${each}: ${inputs} inputs, ${share.toFixed(1)} % past parsing, ${kept} kept, ${places} places of the code; ` +
      `deaths ${count('death')}, hangs ${count('hang')}, raw exceptions ${count('raw exception')}, growths ${count('memory')}`,
  );
  for (const { what, detail, input } of failures) {
    console.log(`\n${what}: ${detail}\n  again: npm run fuzz -- ${each} --replay ${input}`);
  }
  failed ||= failures.length > 0;
}
process.exit(failed ? 1 : 0);
