import { dirname } from 'node:path';
import { nodeHost, readRecipe } from '../runs/node.js';
import { type PreviewPart, previewRun } from '../runs/preview.js';
import { type RunContext, startRun } from '../runs/run.js';
import type { Terminal } from './console.js';
import { interruptedExitCode, interruptible } from './interrupt.js';
import { runListener } from './run-listener.js';

export interface TrainOptions {
  json?: boolean;
  device?: string;
  /** The highest checkpoint (true) or a named one. */
  resume?: true | string;
  overwrite?: boolean;
  preview?: boolean;
  force?: boolean;
  /** File for the profile of one step. */
  profile?: string;
}

/** `lowrank train RECIPE.yaml [key=value …]` */
export async function trainCommand(terminal: Terminal, path: string, overrides: string[], options: TrainOptions): Promise<void> {
  const recipe = await readRecipe(path, overrides);
  const listener = runListener(terminal);
  const context: RunContext = { host: nodeHost, name: path, near: dirname(path), onEvent: listener };
  if (options.preview) {
    const { shown } = await previewRun(recipe, context);
    const paint = painter(terminal);
    for (const { row, sequences } of shown) {
      const texts = sequences.map((parts) => parts.map(paint).join(''));
      terminal.verbatim(`\n${row}\n${texts.join('\n')}`);
    }
    return terminal.result({ preview: shown.length }, '');
  }
  const { device, resume, overwrite, force, profile } = options;
  let finishing = 'stopping';
  context.onEvent = (event) => {
    if (event.type === 'start') finishing = 'finishing the step under way, then saving';
    listener(event);
  };
  const { interrupted } = await interruptible(
    terminal,
    () => finishing,
    (signal) => startRun(recipe, { ...context, signal, device, resume, overwrite, force, profile }),
  );
  if (interrupted) process.exitCode = interruptedExitCode;
}

/** Supervised text green, the rest dim; without colours supervised text stands in ‹ ›. */
function painter({ colors, live }: Terminal): (part: PreviewPart) => string {
  if (!live) return ({ text, supervised }) => (supervised ? `‹${text}›` : text);
  return ({ text, supervised }) => (supervised ? colors.green(text) : colors.dim(text));
}
