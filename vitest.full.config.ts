import { defineConfig } from 'vitest/config';

/** What takes minutes: all moments of what `npm test` samples. */
export default defineConfig({
  test: {
    include: ['test/**/*.full.test.ts'],
    reporters: ['default', './test/helpers/not-run.ts'],
    setupFiles: ['./test/helpers/messages.ts'],
    testTimeout: 3_600_000,
    hookTimeout: 600_000,
    maxWorkers: 1,
    fileParallelism: false,
  },
});
