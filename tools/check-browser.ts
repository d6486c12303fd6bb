/** Bundles src/browser.ts for a browser, in memory: an import that only Node has is an error. Prints the bundle's size. */
import { resolve } from 'node:path';
import { gzipSync } from 'node:zlib';
import { build } from 'esbuild';

const entry = 'src/browser.ts';

async function check(): Promise<void> {
  const { outputFiles, metafile } = await build({
    absWorkingDir: resolve(import.meta.dirname, '../..'),
    entryPoints: [entry],
    bundle: true,
    write: false,
    metafile: true,
    minify: true,
    format: 'esm',
    platform: 'browser',
    target: 'es2022',
    logLevel: 'silent',
  });
  // What esbuild does not find is an error to it, but not inside `try` or before `.catch`.
  for (const [file, { imports }] of Object.entries(metafile.inputs)) {
    const missing = imports.find(({ external }) => external);
    if (missing) throw new Error(`${file} imports ${missing.path}`);
  }
  const [{ contents }] = outputFiles;
  const kilobytes = (bytes: number) => `${Math.round(bytes / 1000)} kB`;
  console.error(`browser bundle: ${kilobytes(contents.length)}, ${kilobytes(gzipSync(contents).length)} compressed`);
}

await check().catch((error: Error) => {
  console.error(`${entry} cannot be bundled for a browser: ${error.message}`);
  process.exitCode = 1;
});
