import { defineConfig } from 'vitest/config';

const sets = (process.env.LOWRANK_SANITIZED_SETS ?? 'generic').split(',').join('|');

/** The conformance tests with the addon that tools/test-sanitizers.mjs builds. */
export default defineConfig({
  plugins: [
    {
      name: 'the sanitized addon',
      enforce: 'pre',
      transform: (code, id) => (id.endsWith('/backends/cpu/addon.ts') ? code.replace('build/native/', 'build/asan/') : undefined),
    },
  ],
  test: {
    include: ['test/conformance/*.test.ts', 'test/core/memory.test.ts', 'test/optim/paged.test.ts'],
    // What runs on plain loops is tested elsewhere.
    testNamePattern: new RegExp(`\\bcpu (${sets}),(?! .*without fused)|^(?!.*\\b(cpu|reference)\\b)`),
    testTimeout: 600_000,
    hookTimeout: 60_000,
    pool: 'forks',
    maxWorkers: 1,
  },
});
