import { spawn } from 'node:child_process';

export interface Outcome {
  code: number | null;
  out: string;
  err: string;
}

/**
 * Runs the command line as a user would; `onError` sees what arrives on standard error. A line that says "undefined" is an error: it was
 * made of a value that was not there.
 */
export function lowrank(
  args: readonly string[],
  {
    input = '',
    env = {},
    onError,
  }: { input?: string; env?: Record<string, string>; onError?: (text: string, kill: () => void) => void } = {},
): Promise<Outcome> {
  const child = spawn(process.execPath, ['dist/cli/main.js', ...args], {
    env: { ...process.env, NO_COLOR: '1', LOWRANK_THREADS: '2', ...env },
  });
  let [out, err] = ['', ''];
  child.stdout.on('data', (part) => {
    out += part;
  });
  child.stderr.on('data', (part) => {
    err += part;
    onError?.(err, () => child.kill('SIGINT'));
  });
  child.stdin.end(input);
  return new Promise((done, fail) =>
    child.on('close', (code) => {
      const empty = `${out}\n${err}`.split('\n').find((line) => /\bundefined\b|\[object Object\]/.test(line));
      if (empty === undefined) done({ code, out, err });
      else fail(new Error(`lowrank ${args.join(' ')} says: ${empty}`));
    }),
  );
}
