import { endWriting } from '../io/node.js';
import type { Terminal } from './console.js';

/** How a process that was interrupted ends. */
export const interruptedExitCode = 130;

const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/**
 * Listens for Ctrl-C, SIGTERM and SIGHUP while a long job runs: the first fires the signal, so that the job can finish what it is doing and
 * save; the second ends the process at once, and what was written before stays whole. `finishing` is what the first one says.
 */
export async function interruptible<T>(
  terminal: Terminal,
  finishing: string | (() => string),
  body: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const controller = new AbortController();
  const end = () => process.exit(interruptedExitCode);
  let ending = false;
  const stop = (name: NodeJS.Signals) => {
    if (ending) end();
    if (controller.signal.aborted) {
      // A terminal that is closed sends it more than once.
      if (name === 'SIGHUP') return;
      terminal.note('stopped');
      ending = true;
      return void endWriting().finally(end);
    }
    terminal.note(`${typeof finishing === 'string' ? finishing : finishing()} (Ctrl-C again stops at once)`);
    controller.abort();
  };
  for (const name of signals) process.on(name, stop);
  try {
    return await body(controller.signal);
  } finally {
    for (const name of signals) process.off(name, stop);
  }
}
