import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { transform } from 'esbuild';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { recipeKeys } from '../../src/runs/recipe.js';
import { lowrank } from '../helpers/cli.js';
import { describeNative } from '../helpers/native.js';
import { writeTinyModel } from '../helpers/tiny-model.js';
import { anchorsOf, commandsOf, type Fence, inlineCode, linksOf, type Page, pages, readPage } from './markdown.js';

/** The model that the pages name; here a tiny one stands for it in the cache, so that their commands run as they are written. */
const model = 'HuggingFaceTB/SmolLM2-135M-Instruct';
const folder = mkdtempSync(join(tmpdir(), 'lowrank-docs-'));
const env = {
  PATH: `${join(folder, 'bin')}:${process.env.PATH}`,
  HF_HUB_CACHE: join(folder, 'cache'),
  HF_HUB_OFFLINE: '1',
  NO_COLOR: '1',
  LOWRANK_THREADS: '2',
};

beforeAll(async () => {
  const commit = '0'.repeat(40);
  const repository = join(env.HF_HUB_CACHE, `models--${model.replace('/', '--')}`);
  await writeTinyModel(join(repository, 'snapshots', commit));
  mkdirSync(join(repository, 'refs'));
  writeFileSync(join(repository, 'refs', 'main'), commit);
  mkdirSync(join(folder, 'bin'));
  const npx = `#!/bin/sh\n[ "$1" = lowrank ] || exit 127\nshift\nexec "${process.execPath}" "${resolve('dist/cli/main.js')}" "$@"\n`;
  writeFileSync(join(folder, 'bin', 'npx'), npx, { mode: 0o755 });
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A page's blocks in their order: files are written, commands run, as a reader would in one folder. */
async function follow({ name, fences }: Page): Promise<void> {
  const cwd = join(folder, name);
  mkdirSync(cwd);
  symlinkSync(resolve('examples'), join(cwd, 'examples'));
  mkdirSync(join(cwd, 'node_modules'));
  symlinkSync(resolve('.'), join(cwd, 'node_modules/lowrank'));
  for (const { language, info, text, place } of fences) {
    if (['yaml', 'jsonl'].includes(language) && info !== '') writeFileSync(join(cwd, info), text);
    if (language === 'sh' && info === '') await run(['sh', '-e', '-c', text], place, cwd);
    if (language === 'ts') await run([process.execPath, await program(text, cwd)], place, cwd);
  }
}

/** A TypeScript program as a module that Node runs. */
async function program(text: string, cwd: string): Promise<string> {
  const { code } = await transform(text, { loader: 'ts' });
  writeFileSync(join(cwd, 'program.mjs'), code);
  return 'program.mjs';
}

function run([command, ...args]: string[], place: string, cwd: string): Promise<void> {
  const child = spawn(command, args, { cwd, env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'pipe'] });
  let said = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (part) => {
      said += part;
    });
  }
  return new Promise((done, fail) =>
    child.on('close', (code) => (code === 0 ? done() : fail(new Error(`${place}: exit code ${code}\n${args.at(-1)}\n${said}`)))),
  );
}

const isCommands = ({ language }: Fence) => language === 'sh';
const isRun = (fence: Fence) => fence.language === 'ts' || (isCommands(fence) && fence.info === '');

describeNative('the commands and programs of a page run in their order', () => {
  test.each(pages.filter(({ fences }) => fences.some(isRun)).map((page) => [page.name, page]))('%s', async (_, page) => follow(page));
});

describe('commands that need a network, a large model or a certain machine', () => {
  const checked = pages.flatMap(({ fences }) => fences.filter((fence) => isCommands(fence) && fence.info === 'checked'));
  const commands = checked
    .flatMap(({ text, place }) => commandsOf(text).map((words) => [words.join(' '), words, place] as const))
    .filter(([line]) => /^(npx|npm run) /.test(line));
  const keys = recipeKeys().map(({ key }) => key);
  const { scripts } = JSON.parse(readFileSync('package.json', 'utf8')) as { scripts: Record<string, string> };

  test('a block of commands is either run or checked', () => {
    const infos = pages.flatMap(({ fences }) => fences.filter(isCommands).map(({ info }) => info));
    expect([...new Set(infos)].sort()).toEqual(['', 'checked']);
  });

  test.each(commands)('%s', async (_, [program, name, ...rest], place) => {
    if (program === 'npm') {
      expect(Object.keys(scripts), place).toContain(rest[0]);
      return;
    }
    expect(name, place).toBe('lowrank');
    for (const [, key] of rest.map((word) => /^([a-z_0-9]+)[.=]/.exec(word)).filter((found) => found !== null))
      expect(keys, place).toContain(key);
    // Options are read in their order, and the first that is not known ends the command before it does anything.
    const { code, err } = await lowrank([...rest, '--no-such-option']);
    expect([code, err], place).toEqual([1, expect.stringContaining("unknown option '--no-such-option'")]);
  });
});

describe('what the pages name is there', () => {
  const source = readdirSync('src', { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.ts'))
    .map((name) => readFileSync(join('src', name), 'utf8'))
    .join('\n');
  const guide = pages.filter(({ name }) => !['LOG.md', 'release.md', 'add-a-model.md'].includes(name));

  test.each([
    ...pages,
    ...readdirSync('.')
      .filter((name) => name.endsWith('.md'))
      .map(readPage),
  ])('the links of $path', (page) => {
    for (const link of linksOf(page)) {
      const [path, anchor] = link.split('#');
      const target = path === '' ? page.path : join(dirname(page.path), path);
      expect(existsSync(target), link).toBe(true);
      if (anchor !== undefined) expect(anchorsOf(readPage(target)), link).toContain(anchor);
    }
  });

  test.each(pages.filter(({ fences }) => fences.some(({ language }) => language === 'typescript')))('the code that $name shows', (page) => {
    for (const { language, info, text } of page.fences)
      if (language === 'typescript') expect(readFileSync(info, 'utf8').includes(text), info).toBe(true);
  });

  test.each(guide)('the settings of $name', (page) => {
    const names = inlineCode(page).flatMap((code) => /^([a-z]+(?:_[a-z0-9]+)+)(?:$|[:=])/.exec(code)?.[1] ?? []);
    expect(names.filter((name) => !new RegExp(`\\b${name}\\b`).test(source))).toEqual([]);
  });

  test('every page is in the contents', () => {
    const contents = linksOf(readPage('docs/README.md'));
    expect(contents).toEqual(expect.arrayContaining(pages.map(({ name }) => name).filter((name) => name !== 'README.md')));
  });

  test('the messages that are explained', () => {
    const messages = [...readPage('docs/troubleshooting.md').prose.matchAll(/^### `(.*)`$/gm)].map(([, message]) => message);
    expect(messages.length).toBeGreaterThan(20);
    const parts = messages.flatMap((message) => message.split('…'));
    expect(parts.filter((part) => !source.includes(part))).toEqual([]);
  });
});
