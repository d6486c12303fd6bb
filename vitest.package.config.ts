import { defineConfig } from 'vitest/config';

/** The packages of `npm run prebuild`, installed as npm installs them. */
export default defineConfig({ test: { include: ['test/e2e/package.test.ts'], env: { LOWRANK_PREBUILT: '1' }, testTimeout: 60_000 } });
