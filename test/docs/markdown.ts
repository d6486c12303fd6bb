import { readdirSync, readFileSync } from 'node:fs';
import { basename } from 'node:path';

/** A fenced block of a page. */
export interface Fence {
  /** The first word behind the backticks. */
  language: string;
  /** What follows it: a file's name, or `checked`. */
  info: string;
  text: string;
  /** `page:line` of the block's first line. */
  place: string;
}

/** A page of docs/ or of the repository's root. */
export interface Page {
  path: string;
  name: string;
  text: string;
  fences: Fence[];
  /** The text without fenced blocks. */
  prose: string;
}

export function readPage(path: string): Page {
  const text = readFileSync(path, 'utf8');
  const fences: Fence[] = [];
  const prose: string[] = [];
  let open: Fence | undefined;
  for (const [i, line] of text.split('\n').entries()) {
    const [, language = '', info = ''] = /^```(\S*) *(.*)$/.exec(line) ?? [];
    if (line.startsWith('```')) {
      if (open) fences.push(open);
      open = open ? undefined : { language, info, text: '', place: `${path}:${i + 2}` };
    } else if (open) open.text += `${line}\n`;
    else prose.push(line);
  }
  return { path, name: basename(path), text, fences, prose: prose.join('\n') };
}

export const pages: readonly Page[] = readdirSync('docs')
  .filter((name) => name.endsWith('.md'))
  .map((name) => readPage(`docs/${name}`));

/** What GitHub makes of a page's headings: the parts of addresses behind #. */
export function anchorsOf({ prose }: Page): Set<string> {
  const headings = [...prose.matchAll(/^#+ (.*)$/gm)].map(([, title]) => title.replace(/[`*]/g, ''));
  return new Set(
    headings.map((title) =>
      title
        .toLowerCase()
        .replace(/[^\p{L}\p{N}_ -]/gu, '')
        .replaceAll(' ', '-'),
    ),
  );
}

/** The links of a page that do not lead into the web. */
export function linksOf({ prose }: Page): string[] {
  return [...prose.matchAll(/\]\(([^)\s]+)\)/g)].map(([, target]) => target).filter((target) => !/^https?:/.test(target));
}

/** The texts in single backticks. */
export function inlineCode({ prose }: Page): string[] {
  return [...prose.matchAll(/`([^`\n]+)`/g)].map(([, code]) => code);
}

/** The commands of a shell block, as words: comments, continued lines, quotes, `&&` and `;` are understood. */
export function commandsOf(text: string): string[][] {
  const lines = text.replaceAll('\\\n', ' ').split('\n');
  return lines.flatMap((line) => {
    const words = [...line.matchAll(/"([^"]*)"|'([^']*)'|(&&|;|#.*)|((?:[^\s"';#]|(?<=\S)#)+(?:"[^"]*")?)/g)].map(
      ([, double, single, mark, plain]) => ({ mark, word: double ?? single ?? plain }),
    );
    const commands: string[][] = [[]];
    for (const { mark, word } of words) {
      if (mark?.startsWith('#')) break;
      if (mark) commands.push([]);
      else commands.at(-1)?.push(word);
    }
    return commands.filter((command) => command.length > 0);
  });
}
