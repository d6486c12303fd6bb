import { type Gradients, gradientLike, record } from '../core/tape.js';
import { empty, overwritable, type Tensor } from '../core/tensor.js';
import { checkShape } from './check.js';
import type { LoraBranch } from './linear.js';

/** Where the tokens of a pass go: T tokens, k experts each of E, N = T·k rows in the order of the experts. */
export interface Routing {
  /** [T,k] f32: the factor of what each of a token's experts gives. */
  readonly weights: Tensor;
  /** [N] i32: the token of each row. */
  readonly tokens: Tensor;
  /** [T,k] i32: the row of each of a token's experts. */
  readonly places: Tensor;
  /** [E+1] i32: where each expert's rows begin, and the end. */
  readonly groups: Tensor;
}

/** What the balancing loss of a pass (Fedus et al. 2021, eq. 4 to 6) gathers over its layers; all f32 [E]. */
export interface Balance {
  /** How many tokens each expert has got. */
  readonly counts: Tensor;
  /** The sums of the router's probabilities. */
  readonly probabilities: Tensor;
  /** dL / d probability of expert e = factor · counts[e], once all layers have been counted. */
  readonly factor: number;
}

export interface RouteOptions {
  /** Experts of each token. */
  k: number;
  /** Whether the weights of a token's experts add up to 1. */
  normalize: boolean;
  /** Takes part in the balancing loss. `counted`: an earlier pass over the same tokens has been counted. */
  balance?: Balance;
  counted?: boolean;
}

/**
 * logits [T,E] f32 → the routing of its tokens, whose weights are differentiable.
 *
 * p = softmax(logits), w = p of the k largest (divided by their sum); dlogits = p·(dp − Σ p·dp), dp what w and the balancing loss ask for.
 */
export function route(logits: Tensor, { k, normalize, balance, counted }: RouteOptions): Routing {
  checkShape('route', 'logits', logits, [-1, -1]);
  const { backend } = logits;
  const [T, E] = logits.shape;
  const probabilities = empty(backend, [T, E], 'f32');
  const [experts, weights] = [empty(backend, [T, k], 'i32'), empty(backend, [T, k], 'f32')];
  backend.run('route', { logits }, { probabilities, experts, weights }, { normalize });
  const [tokens, places, groups] = [[T * k], [T, k], [E + 1]].map((shape) => empty(backend, shape, 'i32'));
  const counts = counted ? undefined : balance?.counts;
  backend.run('groupRows', { experts }, { tokens, places, groups, counts }, {});
  if (balance && !counted) backend.run('columnSum', { x: probabilities }, { out: balance.probabilities }, {});
  record('route', [logits], weights, [probabilities, experts, balance?.counts], (dweights) => {
    const dlogits = empty(backend, [T, E], 'f32');
    const inputs = { probabilities, experts, dweights, counts: balance?.counts };
    backend.run('routeBackward', inputs, { dlogits }, { normalize, balance: balance?.factor ?? 0 });
    return [dlogits];
  });
  return { weights, tokens, places, groups };
}

/**
 * x [T,C] → its rows in the order of the experts, [N,C].
 *
 * y[i] = x[tokens[i]];  dx[t] = Σ_j dy[places[t,j]]
 */
export function dispatchRows(x: Tensor, { tokens, places }: Routing): Tensor {
  const { backend } = x;
  const y = empty(backend, [tokens.shape[0], x.shape[1]], x.dtype);
  backend.run('gatherRows', { x, rows: tokens }, { out: y }, {});
  const vjp = (dy: Tensor, _: Gradients, residual: Tensor | undefined) => {
    const dx = residual ? overwritable(residual) : empty(backend, x.shape, x.dtype);
    backend.run('combineRows', { x: dy, places, residual }, { out: dx }, {});
    return [dx];
  };
  return record('dispatchRows', [x], y, [places], vjp, true);
}

/**
 * y [N,C], residual [T,C] → out [T,C].
 *
 * out[t] = Σ_j w[t,j]·y[places[t,j]] + residual[t];  dy[places[t,j]] = w[t,j]·dout[t], dw[t,j] = dout[t]·y[places[t,j]]
 */
export function combineRows(y: Tensor, { weights, places }: Routing, residual?: Tensor): Tensor {
  const { backend } = y;
  const out = empty(backend, [places.shape[0], y.shape[1]], y.dtype);
  backend.run('combineRows', { x: y, places, weights, residual }, { out }, {});
  return record('combineRows', [y, weights, residual], out, [y, weights, places], (dout) => {
    const [dx, dweights] = [overwritable(y), empty(backend, weights.shape, 'f32')];
    backend.run('combineRowsBackward', { x: y, places, weights, dout }, { dx, dweights }, {});
    return [dx, dweights, dout];
  });
}

/** A linear layer of one expert: weight [out,in], bias none. */
export interface ExpertLinear {
  readonly weight: Tensor;
  readonly lora?: ExpertBranch;
}

/** The low-rank update of an expert. */
export interface ExpertBranch extends Pick<LoraBranch, 'A' | 'B' | 'scale'> {
  /** Where A and B are rows of parameters: those. */
  readonly within?: { readonly A: Tensor; readonly B: Tensor };
}

/**
 * x [N,in] in the order of the experts, groups [E+1], E linear layers → y [N,out], each row by the layer of its expert. As `linear`, for
 * the rows of each expert by themselves:
 *
 * y = x·Wᵀ + h·Bᵀ, h = s·x·Aᵀ;  dx = dy·W + dh·A, dh = s·dy·B;  dW = dyᵀ·x;  dA = dhᵀ·x;  dB = dyᵀ·h
 */
export function groupedLinear(x: Tensor, groups: Tensor, experts: readonly ExpertLinear[]): Tensor {
  const { backend } = x;
  const [N] = x.shape;
  const [outputs, inputs] = experts[0].weight.shape;
  checkShape('groupedLinear', 'x', x, [-1, inputs]);
  checkShape('groupedLinear', 'groups', groups, [experts.length + 1]);
  const y = empty(backend, [N, outputs], x.dtype);
  // Experts of one rank share h.
  const hs = new Map<number, Tensor>();
  for (const [group, { weight, lora }] of experts.entries()) {
    checkShape('groupedLinear', `weight ${group}`, weight, [outputs, inputs]);
    product(groups, group, 'NT', x, weight, y);
    if (!lora) continue;
    const [r] = lora.A.shape;
    const h = hs.get(r) ?? empty(backend, [N, r], x.dtype);
    hs.set(r, h);
    product(groups, group, 'NT', x, lora.A, h, { alpha: lora.scale });
    product(groups, group, 'NT', h, lora.B, y, { accumulate: true });
  }
  const frozen = experts.every(({ weight, lora }) => !lora && !weight.requiresGrad);
  const parts = experts.flatMap(({ weight, lora }) => [weight, lora?.within?.A ?? lora?.A, lora?.within?.B ?? lora?.B]);
  const vjp = (dy: Tensor, gradients: Gradients, gradientSoFar: Tensor | undefined) => {
    const dx = x.requiresGrad ? (gradientSoFar ? overwritable(gradientSoFar) : empty(backend, x.shape, x.dtype)) : undefined;
    if (dx && gradientSoFar && gradientSoFar.storage !== dx.storage) backend.run('cast', { x: gradientSoFar }, { out: dx }, {});
    const dhs = new Map([...hs].map(([r, h]) => [r, empty(backend, h.shape, h.dtype)]));
    const sums = new GradientSums(gradients);
    for (const [group, { weight, lora }] of experts.entries()) {
      if (dx) product(groups, group, 'NN', dy, weight, dx, { accumulate: gradientSoFar !== undefined });
      const addProduct = (a: Tensor, b: Tensor) => (out: Tensor, accumulate: boolean) =>
        product(groups, group, 'TN', a, b, out, { accumulate });
      if (weight.requiresGrad) sums.add(weight, weight, addProduct(dy, x));
      if (!lora) continue;
      const { A, B, within = lora } = lora;
      const [h, dh] = [hs, dhs].map((all) => all.get(A.shape[0]) as Tensor);
      product(groups, group, 'NN', dy, B, dh, { alpha: lora.scale });
      if (dx) product(groups, group, 'NN', dh, A, dx, { accumulate: true });
      sums.add(A, within.A, addProduct(dh, x));
      sums.add(B, within.B, addProduct(dy, h));
    }
    return [dx, ...sums.take(parts)];
  };
  return record('groupedLinear', [x, ...parts], y, [frozen ? undefined : x, groups, ...hs.values(), ...parts], vjp, true);
}

/** The gradients that one vjp gives, of parameters and of rows of parameters. */
class GradientSums {
  private readonly gradients: Gradients;
  private readonly made = new Map<Tensor, Tensor>();

  constructor(gradients: Gradients) {
    this.gradients = gradients;
  }

  /** Adds to the gradient of `part`, which is `whole` or some of its rows, by an op that can add to what is there. */
  add(part: Tensor, whole: Tensor, op: (out: Tensor, accumulate: boolean) => void): void {
    const sum = this.gradients.own(whole) ?? this.made.get(whole);
    const gradient = sum ?? gradientLike(whole);
    if (!sum) this.made.set(whole, gradient);
    if (part === whole) {
      op(gradient, sum !== undefined);
      return;
    }
    if (!sum) gradient.backend.run('fill', {}, { out: gradient }, { value: 0 });
    op(gradient.rows((part.offset - whole.offset) / (whole.bytes / whole.shape[0]), part.shape[0]), true);
  }

  /** The gradients that were made, each at the first place of its parameter. */
  take(parameters: readonly (Tensor | undefined)[]): (Tensor | undefined)[] {
    return parameters.map((parameter) => {
      const gradient = parameter && this.made.get(parameter);
      if (parameter) this.made.delete(parameter);
      return gradient;
    });
  }
}

/** out = alpha · op(a) · op(b) (+ out) over the rows of a group. */
function product(
  groups: Tensor,
  group: number,
  form: 'NT' | 'NN' | 'TN',
  a: Tensor,
  b: Tensor,
  out: Tensor,
  { alpha = 1, accumulate = false }: { alpha?: number; accumulate?: boolean } = {},
): void {
  const attributes = { group, transposeA: form === 'TN', transposeB: form === 'NT', alpha, accumulate };
  a.backend.run('groupMatmul', { a, b, groups, ...b.quantization }, { out }, attributes);
}
