import ts from 'typescript';
import { expect, test } from 'vitest';
import { pages, readPage } from './markdown.js';

test('the programs of the pages and of the README are typed as the package is', () => {
  const programs = new Map<string, string>(
    [...pages, readPage('README.md')].flatMap(({ fences }) =>
      fences
        .filter(({ language }) => language === 'ts')
        .map(({ text, place }, i) => [`${place.replace(/[^\w]/g, '-')}-${i}.ts`, text] as const),
    ),
  );
  const { config } = ts.readConfigFile('tsconfig.base.json', ts.sys.readFile);
  const { options } = ts.convertCompilerOptionsFromJson({ ...config.compilerOptions, composite: false, noEmit: true }, '.');
  const host = ts.createCompilerHost(options);
  const { fileExists, getSourceFile } = host;
  host.fileExists = (name) => programs.has(name) || fileExists(name);
  host.getSourceFile = (name, language) =>
    programs.has(name) ? ts.createSourceFile(name, programs.get(name) ?? '', language, true) : getSourceFile(name, language);
  const found = ts.getPreEmitDiagnostics(ts.createProgram([...programs.keys()], options, host));
  expect(found.map(({ file, messageText }) => `${file?.fileName}: ${ts.flattenDiagnosticMessageText(messageText, '\n')}`)).toEqual([]);
  expect(programs.size).toBeGreaterThan(0);
});
