import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    exclude: ['test/interop/**', 'test/arm/**', 'test/real/**', 'test/**/*.full.test.ts'],
    setupFiles: ['./test/helpers/messages.ts'],
    reporters: ['default', './test/helpers/not-run.ts'],
    testTimeout: 60_000,
    hookTimeout: 60_000,
    maxWorkers: 2,
  },
});
