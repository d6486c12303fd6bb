/**
 * Holds the length of lines: none has more than 140 columns, in code or in comments. Files that are generated or recorded are left out.
 * Prints each line that is too long as file:line and exits 1.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { extname, join, resolve } from 'node:path';

const root = resolve(import.meta.dirname, '../..');
const folders = ['native', 'src', 'test', 'bench', 'tools'];
const kinds = ['.ts', '.mjs', '.cpp', '.h', '.py'];
const leftOut = /^(native\/kernels\/ops\.generated\.h|test\/golden\/.*|bench\/results\/.*)$/;
const columns = 140;

const files = folders.flatMap((folder) =>
  readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .map((file) => `${folder}/${file}`)
    .filter((file) => kinds.includes(extname(file)) && !leftOut.test(file)),
);
const found = files.flatMap((file) =>
  readFileSync(join(root, file), 'utf8')
    .split('\n')
    .flatMap((line, i) => ([...line].length > columns ? [`${file}:${i + 1}`] : [])),
);
for (const place of found) console.error(`${place}: more than ${columns} columns`);
if (found.length > 0) process.exitCode = 1;
else console.error(`lines: ${files.length} files, none has more than ${columns} columns`);
