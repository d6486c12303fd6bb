import { defineConfig } from 'vitest/config';

/** Tests that start the real peers (PyTorch, PEFT, transformers) from the project's own venv. */
export default defineConfig({
  test: { include: ['test/interop/**/*.test.ts'], testTimeout: 600_000, hookTimeout: 600_000, maxWorkers: 1, fileParallelism: false },
});
