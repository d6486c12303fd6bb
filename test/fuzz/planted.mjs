import { LowrankError } from '../../dist/util/errors.js';

/** Readers with a bug each, for the fuzzer to find. */
const text = (files) => new TextDecoder().decode(files['a.txt']);
const kept = [];

const target = (bug) => ({
  seeds: () => [{ 'a.txt': new TextEncoder().encode('hello world') }],
  mutator: () => (content, random) => content.map((byte) => (random.next() < 0.1 ? 97 + Math.floor(26 * random.next()) : byte)),
  async run(files, parsed) {
    if (!text(files).startsWith('h')) throw new LowrankError('does not begin with h');
    parsed();
    if (text(files).endsWith('z')) bug();
  },
});

export const targets = {
  sound: target(() => {}),
  raw: target(() => undefined.length),
  hang: target(() => {
    for (;;);
  }),
  memory: target(() => {
    kept[0] = Buffer.alloc(400e6, 1);
  }),
  death: target(() => process.kill(process.pid, 'SIGSEGV')),
};
