import { defineConfig } from 'vitest/config';

/** Tests with published models and llama.cpp, which they fetch. */
export default defineConfig({
  test: { include: ['test/real/**/*.test.ts'], testTimeout: 1_800_000, hookTimeout: 1_800_000, maxWorkers: 1 },
});
