/**
 * Holds the layers: an import goes to the same folder or to one on a lower level of ARCHITECTURE.md's table, and `node:*` stays where a
 * browser never comes. The entry points in src/ itself may import anything but the highest level, and be imported by that alone, for which
 * they register the backends. Only the highest level prints, listens to the process's signals and events, or ends it: everything below
 * serves programs, too. Prints each violation as file:line and exits 1.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import ts from 'typescript';

const root = resolve(import.meta.dirname, '../..');
const source = join(root, 'src');

/** Where `node:*` may be imported: files, and folders with a slash. */
const nodePlaces = ['backends/cpu/', 'io/node.ts', 'io/node/', 'runs/node.ts', 'cli/'];
/** Packages that exist in Node alone, which are held to the same places. */
const nodePackages = ['tokenizers', 'webgpu'];
const entries = ['index.ts', 'browser.ts'];
/** May print: lines that the environment variable DEBUG asks for. */
const printers = ['util/debug.ts'];
/** What of `process` touches a terminal, other listeners or the end of a program that is not ours. */
const ownedByProgram = /^(on|once|off|addListener|prependListener|exit|exitCode|abort|reallyExit|std(in|out|err))$/;

/** The level of each folder of src: rows `| 2 | `ops` `backends` | …` of the table. */
function readLevels(): Map<string, number> {
  const levels = new Map<string, number>();
  for (const [, level, folders] of readFileSync(join(root, 'ARCHITECTURE.md'), 'utf8').matchAll(/^\| (\d+) \| ([^|]*)\|/gm)) {
    for (const [, folder] of folders.matchAll(/`(\w+)`/g)) levels.set(folder, Number(level));
  }
  return levels;
}

/** What counts as one folder: `nn`, but each backend by itself. */
function folderOf(file: string): string {
  const parts = dirname(file).split('/');
  return parts.slice(0, parts[0] === 'backends' ? 2 : 1).join('/');
}

const levels = readLevels();
const highest = Math.max(...levels.values());
const levelOf = (folder: string) => levels.get(folder.split('/')[0]);

/** Why `file` may not import `target`, or undefined; both relative to src. */
function objection(file: string, target: string): string | undefined {
  const [from, to] = [folderOf(file), folderOf(target)];
  if (from === to) return undefined;
  const [above, below] = [levelOf(from), levelOf(to)];
  if (entries.includes(file)) return below === highest ? `imports ${to}` : undefined;
  if (entries.includes(target.replace(/js$/, 'ts'))) return above === highest ? undefined : `${from} imports an entry point`;
  if (above === undefined || below === undefined) return `${above === undefined ? from : to} has no level in ARCHITECTURE.md`;
  return above > below ? undefined : `${from} (level ${above}) imports ${to} (level ${below})`;
}

function violations(file: string): string[] {
  const text = readFileSync(join(source, file), 'utf8');
  return ts.preProcessFile(text).importedFiles.flatMap(({ fileName, pos }) => {
    const ofNode = fileName.startsWith('node:') || nodePackages.includes(fileName);
    const node = ofNode && !nodePlaces.some((place) => file === place || (place.endsWith('/') && file.startsWith(place)));
    const target = fileName.startsWith('.') ? relative(source, join(source, dirname(file), fileName)) : undefined;
    const problem = node ? `imports ${fileName}` : target && objection(file, target);
    return problem ? [`src/${file}:${text.slice(0, pos).split('\n').length}: ${problem}`] : [];
  });
}

/** Where a file prints, or takes the process for its own. */
function intrusions(file: string): string[] {
  if (levelOf(folderOf(file)) === highest || printers.includes(file)) return [];
  const tree = ts.createSourceFile(file, readFileSync(join(source, file), 'utf8'), ts.ScriptTarget.Latest, true);
  const found: string[] = [];
  const visit = (node: ts.Node) => {
    const used = usedOf(node);
    if (used) found.push(`src/${file}:${tree.getLineAndCharacterOfPosition(node.getStart(tree)).line + 1}: uses ${used}`);
    ts.forEachChild(node, visit);
  };
  visit(tree);
  return found;
}

/** A function of the console, or what of `process` is the program's, where a node is that. */
function usedOf(node: ts.Node): string | undefined {
  if (!ts.isPropertyAccessExpression(node)) return undefined;
  const { expression, name } = node;
  const object = expression.getText();
  return object === 'console' || (object === 'process' && ownedByProgram.test(name.text)) ? `${object}.${name.text}` : undefined;
}

const files = readdirSync(source, { recursive: true, encoding: 'utf8' }).filter((file) => file.endsWith('.ts'));
const found = files.flatMap((file) => [...violations(file), ...intrusions(file)]);
for (const violation of found) console.error(violation);
if (found.length > 0) process.exitCode = 1;
else console.error(`layers: ${files.length} files, every import goes downwards`);
