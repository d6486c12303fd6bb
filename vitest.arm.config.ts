import { resolve } from 'node:path';
import { defineConfig } from 'vitest/config';

/** The conformance tests of one of arm64's instruction sets, on a processor that QEMU emulates (test/arm), beside some tests of its own. */
const of = (instructionSet: string, ...others: string[]) => ({
  resolve: { alias: [{ find: /^\.\/addon\.js$/, replacement: resolve('test/arm/addon.ts') }] },
  test: {
    name: instructionSet,
    include: ['test/conformance/*.test.ts', ...others],
    // What runs on plain loops is tested elsewhere; without fused ops there are a hundred times as many calls.
    testNamePattern: /\bcpu\b(?! without fused)/,
    env: { LOWRANK_CPU: instructionSet },
    testTimeout: 300_000,
    hookTimeout: 60_000,
  },
});

export default defineConfig({ test: { maxWorkers: 2, projects: [of('neon', 'test/arm/*.test.ts'), of('neonbf16')] } });
