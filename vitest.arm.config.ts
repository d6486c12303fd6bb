import { defineConfig } from 'vitest/config';

/** The conformance tests of one of arm64's instruction sets, on a processor that QEMU emulates (test/arm), beside some tests of its own. */
const of = (instructionSet: string, ...others: string[]) => ({
  test: {
    name: instructionSet,
    include: ['test/conformance/*.test.ts', ...others],
    env: { LOWRANK_TEST_ARM: instructionSet },
    testTimeout: 300_000,
    hookTimeout: 60_000,
  },
});

export default defineConfig({ test: { maxWorkers: 2, projects: [of('neon', 'test/arm/*.test.ts'), of('neonbf16')] } });
