import { spawn } from 'node:child_process';

export interface Outcome {
  code: number | null;
  out: string;
  err: string;
}

/** Runs the command line as a user would; `onError` sees what arrives on standard error. */
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
  return new Promise((done) => child.on('close', (code) => done({ code, out, err })));
}
