import { adopt, scope } from './scope.js';
import { empty, type Tensor } from './tensor.js';

/** One recorded op: its vjp maps the output's gradient to the gradients of the inputs (undefined where none is asked for). */
interface Entry {
  readonly name: string;
  readonly inputs: readonly (Tensor | undefined)[];
  readonly output: Tensor;
  readonly saved: readonly Tensor[];
  readonly vjp: Vjp;
  /** The vjp takes `gradientSoFar` and adds to it. */
  readonly addsToInputGradient: boolean;
}

/**
 * Gradients of the inputs from that of the output; `gradients` takes those of parameters that are not among the inputs. `gradientSoFar`,
 * for a vjp that asks for it and where there is one, is what the first input's gradient has been summed to so far: the vjp's first result
 * is to be the new sum, and may stand in its place where that is `overwritable`.
 */
type Vjp = (dout: Tensor, gradients: Gradients, gradientSoFar: Tensor | undefined) => readonly (Tensor | undefined)[];

/** Gradients of the trainable parameters, f32, summed over all backward passes until `clear`. The caller's to keep. */
export class Gradients extends Map<Tensor, Tensor> {
  /** Adds a gradient: the first one is kept as it is, later ones are summed into it, or into a new tensor where somebody else holds it. */
  accumulate(parameter: Tensor, gradient: Tensor): void {
    const sum = this.get(parameter);
    if (sum && sum.storage.holders === 1) {
      sum.backend.run('accumulate', { x: gradient }, { out: sum }, { factor: 1 });
      return;
    }
    const kept = sum ? empty(sum.backend, sum.shape, sum.dtype) : gradient;
    if (sum) sum.backend.run('add', { a: sum, b: gradient }, { out: kept }, {});
    this.replace(parameter, kept);
  }

  /** The sum so far of a parameter's gradients, where nobody else holds it: a vjp may add to it and leave its result out. */
  own(parameter: Tensor): Tensor | undefined {
    const sum = this.get(parameter);
    return sum?.storage.holders === 1 ? sum : undefined;
  }

  /** Puts a gradient in the place of what was there. */
  replace(parameter: Tensor, gradient: Tensor): void {
    gradient.storage.hold();
    this.delete(parameter);
    this.set(parameter, gradient);
  }

  /** Takes a gradient out; it passes to the innermost scope. */
  take(parameter: Tensor): Tensor | undefined {
    const gradient = this.get(parameter);
    if (!gradient) return undefined;
    super.delete(parameter);
    adopt(gradient);
    return gradient;
  }

  override clear(): void {
    for (const gradient of this.values()) gradient.storage.release();
    super.clear();
  }

  override delete(parameter: Tensor): boolean {
    this.get(parameter)?.storage.release();
    return super.delete(parameter);
  }
}

let active: Tape | undefined;

/** The ops of a forward pass in order, kept for one backward pass. */
export class Tape {
  private entries: Entry[] = [];

  /** Runs `body`, recording every op that touches a tensor with `requiresGrad`. */
  record<R>(body: () => R): R {
    const outer = active;
    active = this;
    try {
      return body();
    } finally {
      active = outer;
    }
  }

  push(entry: Entry): void {
    for (const tensor of entry.saved) tensor.storage.hold();
    this.entries.push(entry);
  }

  /**
   * Propagates `dout`, the gradient of `output`, back to the leaves: tensors with `requiresGrad` that no entry made. What an entry saved
   * is freed as soon as it is consumed; the tape is empty afterwards.
   */
  backward(output: Tensor, dout: Tensor, gradients: Gradients): void {
    const made = new Set(this.entries.map((entry) => entry.output));
    const pending = new Gradients();
    pending.accumulate(output, dout);
    for (let entry = this.entries.pop(); entry; entry = this.entries.pop()) {
      const { inputs, vjp, saved, addsToInputGradient } = entry;
      const gradient = pending.get(entry.output);
      if (gradient) {
        gradient.storage.hold();
        pending.delete(entry.output);
        scope(() => {
          const sums = (input: Tensor) => (made.has(input) ? pending : gradients);
          const [first] = inputs;
          const gradientSoFar = addsToInputGradient && first ? sums(first).get(first) : undefined;
          const results = withoutTape(() => vjp(gradient, gradients, gradientSoFar));
          inputs.forEach((input, i) => {
            const result = results[i];
            if (!input?.requiresGrad || !result) return;
            if (i === 0 && gradientSoFar) sums(input).replace(input, result);
            else sums(input).accumulate(input, result);
          });
        });
        gradient.storage.release();
      }
      for (const tensor of saved) tensor.storage.release();
    }
    pending.clear();
  }

  /** Drops what was recorded without a backward pass. */
  clear(): void {
    for (const entry of this.entries) for (const tensor of entry.saved) tensor.storage.release();
    this.entries = [];
  }
}

/** Runs `body` without recording. */
export function withoutTape<R>(body: () => R): R {
  const outer = active;
  active = undefined;
  try {
    return body();
  } finally {
    active = outer;
  }
}

/**
 * Ends every differentiable op: notes on the active tape how `output` came from `inputs`. `saved` are the tensors that the vjp reads. The
 * vjp returns one gradient per input; it should leave out those whose input has no `requiresGrad`. `addsToInputGradient`: it takes
 * `gradientSoFar`.
 */
export function record(
  name: string,
  inputs: readonly (Tensor | undefined)[],
  output: Tensor,
  saved: readonly (Tensor | undefined)[],
  vjp: Vjp,
  addsToInputGradient = false,
): Tensor {
  if (!active || !inputs.some((input) => input?.requiresGrad)) return output;
  output.requiresGrad = true;
  active.push({ name, inputs, output, saved: saved.filter((tensor) => tensor !== undefined), vjp, addsToInputGradient });
  return output;
}

/** What a recomputed body gives: its output and, by name, whatever else is worth keeping for its backward pass. */
export type Results = { readonly output: Tensor; readonly [name: string]: Tensor | undefined };

export interface RecomputeOptions {
  /** Runs the body, forward the first time and backward when the gradient is asked for: the place to bring in what only that needs. */
  execute?: <R>(direction: 'forward' | 'backward', run: () => R) => R;
  /** Gives what is kept in a tensor's place. */
  keep?: (tensor: Tensor) => Tensor;
}

/**
 * Recomputation, which recipes call gradient checkpointing (Chen et al. 2016): computes `body(x)` keeping its input and its results, and
 * computes it again when its gradient is asked for. The second time `body` is given the results of the first as `kept`, so that it can
 * leave out what led to nothing but those. It must be a function of `x`, of parameters and of `shared` alone, the tensors that its caller's
 * scope would free before; dropout repeats its mask because it is keyed, not drawn.
 */
export function recompute<R extends Results>(
  x: Tensor,
  shared: readonly Tensor[],
  body: (x: Tensor, kept?: R) => R,
  { execute = (_, run) => run(), keep = (tensor) => tensor }: RecomputeOptions = {},
): Tensor {
  const tape = active;
  if (!tape) return execute('forward', () => scope(() => body(x).output));
  return scope(() => {
    const results = execute('forward', () => withoutTape(() => scopeOfResults(() => body(x))));
    const { output } = results;
    const start = keep(x);
    const kept = Object.fromEntries(Object.entries(results).map(([name, tensor]) => [name, tensor && keep(tensor)])) as R;
    output.requiresGrad = true;
    tape.push({
      name: 'recompute',
      inputs: [x],
      output,
      saved: [start, ...shared, ...Object.values(kept).filter((tensor) => tensor !== undefined)],
      addsToInputGradient: false,
      vjp: (dout, gradients) =>
        execute('backward', () => {
          const leaf = start.view(x.shape);
          leaf.requiresGrad = x.requiresGrad;
          const inner = new Tape();
          const { output: again } = inner.record(() => scopeOfResults(() => body(leaf, kept)));
          inner.backward(again, dout, gradients);
          return [gradients.take(leaf)];
        }),
    });
    return output;
  });
}

/** A scope whose result is all of a body's results. */
function scopeOfResults<R extends Results>(body: () => R): R {
  let results: R | undefined;
  scope(() => {
    results = body();
    return Object.values(results).filter((tensor) => tensor !== undefined);
  });
  return results as R;
}

/** Allocates the gradient of a parameter: f32, counted as gradients. */
export function gradientLike(parameter: Tensor): Tensor {
  return empty(parameter.backend, parameter.shape, 'f32', 'gradients');
}

/**
 * A parameter's gradient by an op that adds to its output, without a copy of what there is: `add` is given the sum so far, and then nothing
 * is returned, or zeros, which are returned.
 */
export function addGradient(parameter: Tensor, gradients: Gradients, add: (sum: Tensor) => void): Tensor | undefined {
  const sum = gradients.own(parameter);
  if (sum) {
    add(sum);
    return undefined;
  }
  const gradient = gradientLike(parameter);
  gradient.backend.run('fill', {}, { out: gradient }, { value: 0 });
  add(gradient);
  return gradient;
}
