import type { Terminal } from './console.js';

/** How a process that was interrupted ends. */
export const interruptedExitCode = 130;

/**
 * Listens for Ctrl-C (and SIGTERM) while a long job runs: the first fires the signal, so that the job can finish what it is doing and save;
 * the second ends the process at once, and what was written before stays whole. `finishing` is what the first one says.
 */
export async function interruptible<T>(
  terminal: Terminal,
  finishing: string | (() => string),
  body: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const controller = new AbortController();
  const stop = () => {
    if (controller.signal.aborted) {
      terminal.note('stopped');
      process.exit(interruptedExitCode);
    }
    terminal.note(`${typeof finishing === 'string' ? finishing : finishing()} (Ctrl-C again stops at once)`);
    controller.abort();
  };
  process.on('SIGINT', stop);
  process.on('SIGTERM', stop);
  try {
    return await body(controller.signal);
  } finally {
    process.off('SIGINT', stop);
    process.off('SIGTERM', stop);
  }
}
