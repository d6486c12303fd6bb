import type { RunEvent, RunResult, SessionEvent } from '../runs/events.js';
import { bytes, counted } from '../util/format.js';
import { duration, labelled, progressBar, type Terminal, tensorProgress, thousands } from './console.js';
import { describeRun } from './plan.js';

/** Shows how a model is made ready: bars in a terminal, a line now and then in a pipe, warnings. */
export function sessionListener(terminal: Terminal): (event: SessionEvent) => void {
  const quantizing = tensorProgress(terminal, 'quantising');
  const [downloading, loading] = [progressBar(terminal), progressBar(terminal)];
  const bar = (show: typeof downloading, done: number, total: number, text: string) => {
    if (done < total) show(done, total, text);
    else terminal.clearBar();
  };
  return (event) => {
    switch (event.type) {
      case 'warning':
        return terminal.warn(event.message);
      case 'download': {
        const { file, done_bytes: done, total_bytes: total } = event;
        return bar(downloading, done, total, `${file}  ${bytes(done)} of ${bytes(total)}`);
      }
      case 'quantizing':
        if (event.done === 0) return terminal.note(`quantising ${event.model} into ${event.path}`);
        return quantizing(event.done, event.total);
      case 'streaming':
        return terminal.note(`streaming  ${bytes(event.bytes)} of weights from ${event.path}`);
      case 'loading':
        return bar(loading, event.done, event.total, `loading ${event.model}`);
    }
  };
}

/** Shows a run's events: a bar in a terminal, lines in a pipe, and at the end with `--json` the result. */
export function runListener(terminal: Terminal): (event: RunEvent) => void {
  const session = sessionListener(terminal);
  return (event) => {
    switch (event.type) {
      case 'data': {
        const { path, held_out, statistics } = event;
        const { rows, tokens, supervised, longest, type } = statistics;
        const counts = [counted(rows, 'row'), counted(tokens, 'token'), `${thousands(supervised)} supervised`];
        const text = `${path}: ${[...counts, `longest ${longest}`, type].join(', ')}`;
        return terminal.note(labelled(held_out ? 'held out' : 'data', text, terminal.width));
      }
      case 'steps':
        return terminal.note(`steps      ${event.total_steps} (${event.steps_per_epoch} an epoch)`);
      case 'plan':
        return terminal.note(labelled('plan', describeRun(event.plan), terminal.width));
      case 'device':
        return terminal.note(`device     ${event.description}`);
      case 'start': {
        const { trainable, all, percent, step } = event;
        terminal.note(`parameters ${thousands(trainable)} trainable of ${thousands(all)} (${percent.toFixed(2)} %)`);
        return step > 0 ? terminal.note(`resuming after step ${step}`) : undefined;
      }
      case 'step':
        return showStep(terminal, event);
      case 'evaluation':
        return terminal.note(`step ${event.step}: held-out loss ${event.loss.toFixed(4)}, perplexity ${event.perplexity.toFixed(3)}`);
      case 'checkpoint':
        return terminal.live ? undefined : terminal.note(terminal.colors.dim(`saved ${event.path}`));
      case 'profile':
        return terminal.note(`profile    step ${event.step} in ${event.path}: open it in chrome://tracing or https://ui.perfetto.dev`);
      case 'save':
        return terminal.clearBar();
      case 'end':
        return showResult(terminal, event.result);
      default:
        return session(event);
    }
  };
}

function showStep(terminal: Terminal, { record, progress, logged }: RunEvent & { type: 'step' }): void {
  const { step, total_steps, loss, learning_rate, seconds } = record;
  const { seconds: spent, remaining_seconds: left, tokens_per_second: rate } = progress;
  const text = `${step}/${total_steps} ${duration(spent)}<${duration(left)} loss ${loss.toFixed(4)} ${thousands(rate)} tok/s`;
  terminal.bar(step / total_steps, text);
  if (!terminal.live && logged) terminal.note(`step ${text} lr ${learning_rate.toExponential(2)} ${seconds.toFixed(2)} s/it`);
}

function showResult(terminal: Terminal, whole: RunResult): void {
  const { peak_rss_bytes: peak, planned_rss_bytes: planned, ...result } = whole;
  const { interrupted, seconds, tokens_per_second, mean_loss, memory } = result;
  terminal.result({ ...result, peak_rss_gb: peak / 1e9, planned_rss_gb: planned / 1e9 }, '');
  const speed = `in ${duration(seconds)}, ${thousands(tokens_per_second)} tokens/s, `;
  terminal.note(`done       ${madeSteps(result)} ${result.trained_steps > 0 ? speed : ''}loss ${mean_loss.toFixed(4)}`);
  terminal.note(`memory     ${bytes(peak)} peak, planned ${bytes(planned)}; tensors ${bytes(memory.peak)}`);
  if (result.streamed_bytes_per_step) terminal.note(`streamed   ${bytes(result.streamed_bytes_per_step)} of weights a step`);
  const [kind, path] = outcome(result);
  terminal.note(`${kind.padEnd(10)} ${path}`);
  terminal.note(`next       ${interrupted ? 'the same command with --resume' : askingCommand(whole)}`);
}

/** What this run did of all the steps. */
function madeSteps({
  steps,
  trained_steps: made,
  total_steps,
  interrupted,
}: Pick<RunResult, 'steps' | 'trained_steps' | 'total_steps' | 'interrupted'>): string {
  if (made === 0) return `no step was left after step ${steps};`;
  const resumed = made < steps ? `, on from step ${steps - made},` : '';
  return `${counted(made, 'step')}${resumed}${interrupted ? ` interrupted after step ${steps} of ${total_steps}` : ''}`;
}

/** The command that asks what a run has trained as its rows asked. */
function askingCommand(result: RunResult): string {
  const [kind, path] = outcome(result);
  const system = result.system === undefined ? '' : ` --system ${quoted(result.system)}`;
  const from = `--${kind} ${quoted(path)}${system}`;
  switch (result.framing) {
    case 'chat':
      return `lowrank chat ${from}`;
    case 'alpaca':
      return `lowrank generate ${from} "an instruction"`;
    case 'completion':
      return `lowrank generate ${from} "the beginning of a text"`;
  }
}

/** A text as a shell takes it for one word. */
function quoted(text: string): string {
  return /^[\w./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

/** What a run wrote, as commands name it in their options, and where. */
export function outcome({ adapter_dir, model_dir }: Pick<RunResult, 'adapter_dir' | 'model_dir'>): ['adapter' | 'model', string] {
  return model_dir === undefined ? ['adapter', adapter_dir ?? ''] : ['model', model_dir];
}
