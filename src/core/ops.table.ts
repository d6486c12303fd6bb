/** Settings of the ops that update a parameter. */
const adam = {
  lr: 'number',
  beta1: 'number',
  beta2: 'number',
  eps: 'number',
  weightDecay: 'number',
  step: 'integer',
  gradientScale: 'number',
} as const;
const lion = { lr: 'number', beta1: 'number', beta2: 'number', weightDecay: 'number', gradientScale: 'number' } as const;

/**
 * The op table: the one declaration of what a backend can be asked to run. The addon's C++ header (`native/kernels/ops.generated.h`), the
 * TypeScript types of `Backend.run` and the conformance suite derive from it; `ops.work.ts` beside it says how much an op computes and
 * moves.
 *
 * Conventions
 * - Tensors are dense and row-major. `T` tokens, `C` model width, `F` MLP width, `H` query heads, `G` key/value heads, `D` head width, `V`
 *   vocabulary, `S` packed examples. `float` is f32 or bf16, chosen for each operand by itself; all arithmetic is in f32 (rounded to
 *   nearest even when stored as bf16), except that a matrix product rounds both factors to bf16 as soon as one of them is bf16.
 * - A name with `?` may be absent. An output with `+` is read before it is written (accumulators, states, partly written targets). Outputs
 *   without `+` are wholly overwritten.
 * - `inPlace` names, for an output, the inputs whose memory it may be: then it has the input's offset, dtype and shape, and is one with
 *   that input alone. In every other respect the memory of an output overlaps no other operand's.
 * - Attributes are named and typed; `AttributeTypes` below has their kinds.
 * - Reductions have an order that depends on the shapes and the number of threads alone, so that a run repeats bit for bit.
 * - A weight [out,in] of a matrix product may be quantised (u4, i8), with `absmax` and `constants` beside it. Its numbers are then, in
 *   row-major order, e the place of one: for i8 (LLM.int8(), Dettmers et al. 2022) code · absmax[row] · (1/127), absmax f32 [out]; for u4
 *   (QLoRA, Dettmers et al. 2023, §3) values[code] · scale[⌊e / blockSize⌋], where absmax f32 [blocks] is the scale itself, and absmax u8
 *   [blocks] stands for nestedValues[absmax] · nestedAbsmax[⌊block / nestedBlockSize⌋] + offset. `constants`, f32: blockSize, values (16),
 *   and with absmax u8 nestedBlockSize, offset, nestedValues (256), nestedAbsmax. Block sizes are powers of two from 32 on. Such a weight
 *   counts as bf16 where the other factor is bf16, otherwise as f32.
 * - `fused: true` marks ops that a backend may lack one by one: `src/ops` has a fallback for each, composed of the others. Ops with a
 *   `group` it may lack as a group, and what needs them says so before it begins. Every other op is required.
 */
export const opTable = {
  /** out = value. out: any dtype. */
  fill: { inputs: [], outputs: ['out'], attributes: { value: 'number' } },
  /** out = x in out's dtype (f32, bf16, f16 in any pair; same number of elements). */
  cast: { inputs: ['x'], outputs: ['out'], attributes: {} },
  /** out = a + b, same shape, float. */
  add: { inputs: ['a', 'b'], outputs: ['out'], attributes: {}, inPlace: { out: ['a', 'b'] } },
  /** out = a · b element by element, same shape, float. */
  mul: { inputs: ['a', 'b'], outputs: ['out'], attributes: {}, inPlace: { out: ['a', 'b'] } },
  /** out += factor · x, same shape, float. */
  accumulate: { inputs: ['x'], outputs: ['out+'], attributes: { factor: 'number' } },

  /**
   * out [M,N] = alpha · op(a) · op(b) (+ out where accumulate), op(m) = mᵀ where its transpose flag is set; float.
   * NT: a [M,K], b [N,K] (forward); NN: a [M,K], b [K,N] (input gradient); TN: a [K,M], b [K,N] (weight gradient). TT is not asked for.
   * b may be a quantised weight.
   */
  matmul: {
    inputs: ['a', 'b', 'absmax?', 'constants?'],
    outputs: ['out+'],
    attributes: { transposeA: 'flag', transposeB: 'flag', alpha: 'number', accumulate: 'flag' },
  },
  /**
   * A linear layer with a low-rank update (Hu et al. 2021, §4.1): h [T,r] = scale·x̃·Aᵀ, y [T,out] = x·Wᵀ + h·Bᵀ (+ residual [T,out]);
   * x [T,in], weight [out,in] (perhaps quantised), A [r,in], B [out,r], float. With a mask (dropoutMask's, of x)
   * x̃ = maskScale·(x where the mask has a 1, else 0), without x̃ = x. All products are of bf16 as soon as x or weight is; h is rounded to
   * its dtype before it is used. y may be left out.
   */
  loraLinear: {
    inputs: ['x', 'weight', 'A', 'B', 'mask?', 'residual?', 'absmax?', 'constants?'],
    outputs: ['y?', 'h'],
    attributes: { scale: 'number', maskScale: 'number' },
    inPlace: { y: ['residual'] },
    fused: true,
  },
  /**
   * dh [T,r] = scale·dy·B; dx [T,in] = dy·W + dh·A (+ residual [T,in]), where with a mask the second product is maskScale times itself
   * where the mask has a 1, else 0. As loraLinear.
   */
  loraLinearBackward: {
    inputs: ['dy', 'weight', 'A', 'B', 'mask?', 'residual?', 'absmax?', 'constants?'],
    outputs: ['dx', 'dh'],
    attributes: { scale: 'number', maskScale: 'number' },
    inPlace: { dx: ['residual'] },
    fused: true,
  },
  /** dA [r,in] = dhᵀ·x̃, dB [out,r] = dyᵀ·h, with h and dh as loraLinear and loraLinearBackward leave them; float. */
  loraGradients: {
    inputs: ['x', 'h', 'dy', 'dh', 'mask?'],
    outputs: ['dA', 'dB'],
    attributes: { maskScale: 'number' },
    fused: true,
  },

  /**
   * out = u4 codes of x (float or f16) and absmax f32, the largest magnitude of each block, as bitsandbytes computes them on a processor:
   * with s = 1 / max(absmax, 1e-38), the code of the value nearest to x·s, the lower one of two; NaN gets the code of the largest value. In
   * a last, partial block x is divided by max(absmax, 1e-38), which is also what is stored. Only blockSize and values of `constants` are
   * read.
   */
  quantize4bit: { inputs: ['x', 'constants'], outputs: ['out', 'absmax'], attributes: {}, group: 'quantizing' },
  /**
   * out = u8 codes of x − offset (x [n] and absmax f32) in blocks of blockSize, by bins as in adamw8bit: the scales of u4 become codes
   * themselves.
   */
  quantize8bit: {
    inputs: ['x', 'codes'],
    outputs: ['out', 'absmax'],
    attributes: { blockSize: 'integer', offset: 'number' },
    group: 'quantizing',
  },
  /**
   * out = i8 codes of x [m,n] float or f16: x·(1 / max(absmax, 1e-36) · 127) rounded to nearest even, absmax [m] f32 the largest magnitude
   * of each row.
   */
  quantizeRows: { inputs: ['x'], outputs: ['out', 'absmax'], attributes: {}, group: 'quantizing' },
  /** out = the numbers of a quantised weight, float or f16, rounded once. */
  dequantize: { inputs: ['weight', 'absmax', 'constants?'], outputs: ['out'], attributes: {}, group: 'dequantizing' },

  /** out [T,N] = x [T,N] + bias [N], float. */
  addBias: { inputs: ['x', 'bias'], outputs: ['out'], attributes: {}, inPlace: { out: ['x'] } },
  /** out [N] (f32) += Σ_t x[t,:], x [T,N] float. */
  columnSum: { inputs: ['x'], outputs: ['out+'], attributes: {} },

  /** out[i,:] = x[rows[i],:]; x [R,C] float, rows [n] i32 in [0,R), out [n,C] float. The embedding. */
  gatherRows: { inputs: ['x', 'rows'], outputs: ['out'], attributes: {} },
  /** out[rows[i],:] = x[i,:]; rows distinct; other rows stay. */
  writeRows: { inputs: ['x', 'rows'], outputs: ['out+'], attributes: {} },
  /** out[rows[i],:] += x[i,:]; rows may repeat (summed in the order of i). The embedding's gradient; out f32. */
  addRows: { inputs: ['x', 'rows'], outputs: ['out+'], attributes: {} },
  /** out [m,n] = x[row … row+m, column … column+n], x 2-D, float. */
  slice: { inputs: ['x'], outputs: ['out'], attributes: { row: 'integer', column: 'integer' } },
  /** out[row … row+m, column … column+n] = x [m,n] (+ what was there where accumulate), float. */
  place: { inputs: ['x'], outputs: ['out+'], attributes: { row: 'integer', column: 'integer', accumulate: 'flag' } },

  /** y [T,C] = x · rstd · (weight + offset), rstd [T] f32 = 1/√(mean(x²) + eps). float. Zhang & Sennrich 2019. */
  rmsNorm: { inputs: ['x', 'weight'], outputs: ['y', 'rstd'], attributes: { eps: 'number', offset: 'number' } },
  /** With x̂ = x·rstd, g = dy·(weight + offset): dx = rstd·(g − x̂·mean(g·x̂)) (+ residual [T,C]); dweight [C] (f32) += Σ_t dy·x̂. */
  rmsNormBackward: {
    inputs: ['x', 'weight', 'rstd', 'dy', 'residual?'],
    outputs: ['dx', 'dweight?+'],
    attributes: { offset: 'number' },
    inPlace: { dx: ['residual'] },
  },
  /** y [T,C] = x̂ · weight (+ bias), x̂ = (x − mean) · rstd, rstd [T] f32 = 1/√(variance(x) + eps), mean [T] f32; float. Ba et al. 2016. */
  layerNorm: { inputs: ['x', 'weight', 'bias?'], outputs: ['y', 'mean', 'rstd'], attributes: { eps: 'number' } },
  /** With x̂ as in layerNorm, g = dy·weight: dx = rstd·(g − mean(g) − x̂·mean(g·x̂)) (+ residual [T,C]); dweight [C] (f32) += Σ_t dy·x̂. */
  layerNormBackward: {
    inputs: ['x', 'weight', 'mean', 'rstd', 'dy', 'residual?'],
    outputs: ['dx', 'dweight?+'],
    attributes: {},
    inPlace: { dx: ['residual'] },
  },
  /**
   * Rotary embedding of x [T, heads·headDim]: with R = 2·cos.shape[1] ≤ headDim, for d < R/2 the pair (a, b) ↦ (a·c − s·b, b·c + s·a),
   * c = cos[positions[t],d], s = sin[positions[t],d], or −s where `back` is set, which is the vjp; the rest is copied. (a, b) is
   * (x_d, x_{d+R/2}), as most of Hugging Face's models have it, or (x_2d, x_{2d+1}) where `interleaved`. cos, sin [P,R/2] f32; positions
   * [T] i32 in [0,P).
   */
  rope: {
    inputs: ['x', 'cos', 'sin', 'positions'],
    outputs: ['out'],
    attributes: { headDim: 'integer', interleaved: 'flag', back: 'flag' },
    inPlace: { out: ['x'] },
  },
  /** y = f(x), f by kind: silu, gelu_tanh (the tanh approximation) or gelu (by erf). */
  activation: { inputs: ['x'], outputs: ['y'], attributes: { kind: 'activation' }, inPlace: { y: ['x'] } },
  /** dx = dy · f′(x). */
  activationBackward: { inputs: ['x', 'dy'], outputs: ['dx'], attributes: { kind: 'activation' }, inPlace: { dx: ['dy'] } },
  /** out = f(gate) · up (SwiGLU, GeGLU; Shazeer 2020). */
  gated: { inputs: ['gate', 'up'], outputs: ['out'], attributes: { kind: 'activation' }, fused: true },
  /** dgate = dout · up · f′(gate), dup = dout · f(gate). */
  gatedBackward: {
    inputs: ['gate', 'up', 'dout'],
    outputs: ['dgate', 'dup'],
    attributes: { kind: 'activation' },
    inPlace: { dgate: ['gate'], dup: ['up'] },
    fused: true,
  },
  /** y = cap·tanh(x/cap), float: a soft cap keeps numbers within ±cap (Gemma Team 2024, §2, logit soft-capping). */
  softcap: { inputs: ['x'], outputs: ['y'], attributes: { cap: 'number' }, inPlace: { y: ['x'] } },
  /** dx = dy · (1 − tanh²(x/cap)). */
  softcapBackward: { inputs: ['x', 'dy'], outputs: ['dx'], attributes: { cap: 'number' }, inPlace: { dx: ['dy'] } },
  /**
   * Row-wise softmax of x [m,n] f32; row i sees columns j with j ≤ i + offset and (window = 0 or j > i + offset − window); the rest is 0.
   * With a sink [1] f32 each row's denominator has exp(sink) besides.
   */
  softmax: { inputs: ['x', 'sink?'], outputs: ['y'], attributes: { offset: 'integer', window: 'integer' }, inPlace: { y: ['x'] } },
  /** dx = y · (dy − Σ_j y·dy), rows of [m,n] f32; dsink [1] (f32) −= Σ_i (1 − Σ_j y)·Σ_j y·dy. */
  softmaxBackward: { inputs: ['y', 'dy'], outputs: ['dx', 'dsink?+'], attributes: {}, inPlace: { dx: ['dy'] } },

  /**
   * Causal grouped-query attention, block-diagonal over packed examples, tiled with an online softmax (Dao et al. 2022, §3.1). q [Tq,H·D],
   * k, v [Tk,G·D] float; query head h reads key/value head ⌊h·G/H⌋. segments [S,4] i32 rows (qStart, qEnd, kStart, kEnd): query i of its
   * segment stands at key position p = kEnd − kStart − (qEnd − qStart) + i and sees key j iff j ≤ p and (window = 0 or j > p − window).
   * Segments lie in q in order without gaps. Scores are scale·q·k, and with softcap > 0 softcap·tanh of that divided by softcap. sinks [H]
   * f32 are one more score for each head, of a key whose value is 0 (Xiao et al. 2023, §3.3; GPT-OSS). out [Tq,H·D]; lse [Tq,H] f32 =
   * log Σ exp of the scores and the sink.
   */
  attention: {
    inputs: ['q', 'k', 'v', 'segments', 'sinks?'],
    outputs: ['out', 'lse'],
    attributes: { headDim: 'integer', scale: 'number', window: 'integer', softcap: 'number' },
    fused: true,
  },
  /**
   * Recomputes the probabilities from lse: dv = pᵀ·do, ds = p·(do·vᵀ − Σ_d do·o), times 1 − (score/softcap)² with a cap, dq = scale·ds·k,
   * dk = scale·dsᵀ·q; dsinks [H] (f32) −= Σ_t exp(sinks − lse)·Σ_d do·o. Segments cover all of k. A backend that has attention has this one
   * too.
   */
  attentionBackward: {
    inputs: ['q', 'k', 'v', 'out', 'lse', 'dout', 'segments', 'sinks?'],
    outputs: ['dq', 'dk', 'dv', 'dsinks?+'],
    attributes: { headDim: 'integer', scale: 'number', window: 'integer', softcap: 'number' },
    fused: true,
  },

  /**
   * The k experts of each token (Shazeer et al. 2017, §2.1): logits [T,E] f32; probabilities [T,E] f32 their softmax over E; experts [T,k]
   * i32 those with the k largest logits, the largest first, of equal ones the first in order; weights [T,k] f32 their probabilities, with
   * `normalize` divided by their sum.
   */
  route: {
    inputs: ['logits'],
    outputs: ['probabilities', 'experts', 'weights'],
    attributes: { normalize: 'flag' },
    group: 'experts',
  },
  /**
   * dlogits[t,e] = p·(dp − Σ_e p·dp), p the probabilities. dp[t,e] is balance·counts[e] (f32 [E]; 0 where absent), and for expert j of t
   * besides dweights[t,j], or with `normalize` (dweights[t,j] − Σ_i w[t,i]·dweights[t,i]) / s[t], s the sum of the p of t's experts and w
   * their p / s. All f32.
   */
  routeBackward: {
    inputs: ['probabilities', 'experts', 'dweights', 'counts?'],
    outputs: ['dlogits'],
    attributes: { normalize: 'flag', balance: 'number' },
    group: 'experts',
  },
  /**
   * Puts the choices experts [T,k] i32, each in [0,E), into the order of their experts, those of one expert as they stand. tokens [T·k] i32
   * is the token t of the choice at each place of that order, places [T,k] i32 the place of each choice, groups [E+1] i32 where those of
   * each expert begin, and the end. counts [E] f32 += the number of each expert's choices.
   */
  groupRows: { inputs: ['experts'], outputs: ['tokens', 'places', 'groups', 'counts?+'], attributes: {}, group: 'experts' },
  /**
   * matmul of the rows of one group, from groups[group] to groups[group + 1] (i32, ascending, inside a): NT and NN take these rows of a and
   * write these rows of out, others stay; TN takes these rows of a and b, and out is the whole result.
   */
  groupMatmul: {
    inputs: ['a', 'b', 'groups', 'absmax?', 'constants?'],
    outputs: ['out+'],
    attributes: { group: 'integer', transposeA: 'flag', transposeB: 'flag', alpha: 'number', accumulate: 'flag' },
    group: 'experts',
  },
  /** out[t,:] = Σ_j weights[t,j]·x[places[t,j],:] (+ residual[t,:]); x [N,C], out, residual [T,C] float, places [T,k] i32, weights f32. */
  combineRows: {
    inputs: ['x', 'places', 'weights?', 'residual?'],
    outputs: ['out'],
    attributes: {},
    inPlace: { out: ['residual'] },
    group: 'experts',
  },
  /**
   * Of combineRows with places that are each of 0 … N−1 once, p = places[t,j]: dx[p,:] = weights[t,j]·dout[t,:]; dweights[t,j] f32 =
   * Σ_c dout[t,c]·x[p,c].
   */
  combineRowsBackward: {
    inputs: ['x', 'places', 'weights', 'dout'],
    outputs: ['dx', 'dweights'],
    attributes: {},
    inPlace: { dx: ['x'] },
    group: 'experts',
  },

  /**
   * Causal convolution of each column by itself, block-diagonal over packed examples: y[t,c] = Σ_{j<K} weight[c,j]·x[t−K+1+j,c]; x, y
   * [T,C], weight [C,K] float; segments as in attention, of the queries, and x is 0 before an example. state [slots·(K−1), C] float
   * remembers examples whose inputs come in several calls: rows [s·(K−1), (s+1)·(K−1)) are the last inputs so far of slot s, the newest
   * last. A segment of slot kStart/capacity goes on behind them if it has more keys than queries, and begins behind zeros if not.
   * Afterwards they are brought up to date.
   */
  shortConv: {
    inputs: ['x', 'weight', 'segments'],
    outputs: ['y', 'state?+'],
    attributes: { capacity: 'integer' },
    group: 'short convolutions',
  },
  /** dx[t,c] = Σ_{j<K} weight[c,j]·dy[t+K−1−j,c] within an example; dweight [C,K] (f32) += Σ_t dy[t,c]·x[t−K+1+j,c]. */
  shortConvBackward: {
    inputs: ['x', 'weight', 'dy', 'segments'],
    outputs: ['dx', 'dweight?+'],
    attributes: {},
    group: 'short convolutions',
  },

  /**
   * Random bits, each 0 with probability p, for a matrix of as many rows and up to 32 columns per word: bit j % 32 of word [t, ⌊j/32⌋]
   * belongs to element [t, j]. mask [T, words] i32. With w the flat number of a word, its bit 8·n + 2·lane + half is 1 iff the half (0 the
   * low one) of that lane of Philox4x32-10 with key (seed, stream), counter (4·w + n, step, 0, 0) is at least p·2¹⁶, rounded.
   */
  dropoutMask: { inputs: [], outputs: ['mask'], attributes: { p: 'number', seed: 'seed', stream: 'seed', step: 'seed' } },
  /** out = maskScale · x where the mask has a 1, else 0; x, out [T,N] float, mask [T,⌈N/32⌉] i32. Its own vjp. */
  dropout: { inputs: ['x', 'mask'], outputs: ['out'], attributes: { maskScale: 'number' }, inPlace: { out: ['x'] } },
  /**
   * losses[i] = logsumexp(logits[i,:]) − logits[i,labels[i]]; gradient[i,:] = scale·weights[i]·(softmax(logits[i,:]) − onehot(labels[i])).
   * logits [n,V] f32; labels [n] i32, a negative one gives loss 0 and a zero row; weights [n] f32 of any sign, 1 where absent: losses stay
   * without them. gradient float. With softcap > 0 softcap·tanh(logits/softcap) stands for the logits; the gradient is that of `logits`.
   */
  crossEntropy: {
    inputs: ['logits', 'labels', 'weights?'],
    outputs: ['losses', 'gradient?'],
    attributes: { scale: 'number', softcap: 'number' },
    inPlace: { gradient: ['logits'] },
  },
  /** out [1] (f32) += factor · Σ x, x float. */
  sum: { inputs: ['x'], outputs: ['out+'], attributes: { factor: 'number' } },
  /** out [1] (f32) += Σ x², x float. */
  sumSquares: { inputs: ['x'], outputs: ['out+'], attributes: {} },
  /** index[i] (i32) = the first argmax of x[i,:], −1 where nothing is above −∞, as in a row of NaN; x [n,V] float. */
  argmax: { inputs: ['x'], outputs: ['index'], attributes: {} },
  /**
   * AdamW (Loshchilov & Hutter 2019, algorithm 2) as PyTorch orders it, all f32, step counts from 1: g = gradientScale·gradient;
   * parameter *= 1 − lr·weightDecay; m = beta1·m + (1−beta1)·g; v = beta2·v + (1−beta2)·g²;
   * parameter −= lr/(1−beta1^step) · m / (√v/√(1−beta2^step) + eps).
   */
  adamw: { inputs: ['gradient'], outputs: ['parameter+', 'm+', 'v+'], attributes: adam },
  /**
   * AdamW with states of 8 bits in blocks of 256 elements (Dettmers et al. 2022, §2), the states bit for bit as bitsandbytes computes them
   * on a processor with PyTorch's vector instructions. n = parameter's elements; gradient, parameter f32; m, v u8, as many as n; absmaxM,
   * absmaxV f32 [⌈n/256⌉]; valuesM, valuesV f32 [256] ascending in [−1, 1]; codesM, codesV u8 [65536] (src/quant/dynamic-map.ts makes
   * them). step counts from 1. With fma(x, y, z) = x·y + z rounded once and every other step rounded to f32: g = gradientScale·gradient;
   * m̂ = fma(g, 1−beta1, beta1·(valuesM[m]·absmaxM[⌊i/256⌋])); v̂ = fma((1−beta2)·g, g, beta2·(valuesV[v]·absmaxV[⌊i/256⌋]));
   * parameter = (1 − lr·weightDecay)·parameter − lr/(1−beta1^step) · m̂ / (√v̂/√(1−beta2^step) + eps).
   * Then a block's absmax is its largest |m̂| and m = codesM[⌊fma(½·(m̂·(1/absmax) clamped to [−1, 1] + 1), 65535, ½)⌋], or 0 in a block of
   * zeros; v likewise.
   */
  adamw8bit: {
    inputs: ['gradient', 'valuesM', 'codesM', 'valuesV', 'codesV'],
    outputs: ['parameter+', 'm+', 'absmaxM+', 'v+', 'absmaxV+'],
    attributes: adam,
    group: 'optimizers of 8 bits',
  },
  /**
   * Lion (Chen et al. 2023, algorithm 2), all f32: g = gradientScale·gradient; parameter = (1 − lr·weightDecay)·parameter −
   * lr·sign(beta1·m + (1−beta1)·g); m = beta2·m + (1−beta2)·g.
   */
  lion: { inputs: ['gradient'], outputs: ['parameter+', 'm+'], attributes: lion, group: 'optimizers' },
  /** lion with m in 8 bits as in adamw8bit: m̂ = fma(g, 1−beta2, beta2·(values[m]·absmax[⌊i/256⌋])). */
  lion8bit: {
    inputs: ['gradient', 'values', 'codes'],
    outputs: ['parameter+', 'm+', 'absmax+'],
    attributes: lion,
    group: 'optimizers of 8 bits',
  },
  /** Gradient descent, all f32: parameter −= lr·(gradientScale·gradient + weightDecay·parameter). */
  sgd: {
    inputs: ['gradient'],
    outputs: ['parameter+'],
    attributes: { lr: 'number', weightDecay: 'number', gradientScale: 'number' },
    group: 'optimizers',
  },
  /**
   * Adafactor (Shazeer & Stern 2018, algorithms 4 and 5) with a given learning rate and no first moment, all f32:
   * g = gradientScale·gradient, s = g² + eps. A matrix [R,C] keeps row [R] = beta2·row + (1−beta2)·mean_C(s) and
   * column [C] = beta2·column + (1−beta2)·mean_R(s), and u = g / √(row/mean(row)) / √column; any other parameter keeps
   * v = beta2·v + (1−beta2)·s, of its shape, and u = g/√v. Then
   * parameter = (1 − lr·weightDecay)·parameter − lr·u / max(1, rms(u)/clipThreshold).
   */
  adafactor: {
    inputs: ['gradient'],
    outputs: ['parameter+', 'row?+', 'column?+', 'v?+'],
    attributes: { lr: 'number', beta2: 'number', eps: 'number', clipThreshold: 'number', weightDecay: 'number', gradientScale: 'number' },
    group: 'optimizers',
  },
} as const satisfies Record<string, OpDeclaration>;

export type OpName = keyof typeof opTable;

/** The nonlinearities of MLPs; `gelu_tanh` is Hugging Face's `gelu_pytorch_tanh`. */
export const activationKinds = ['silu', 'gelu_tanh', 'gelu'] as const;
export type ActivationKind = (typeof activationKinds)[number];

/** The kinds of attributes and what a caller gives for each. */
export interface AttributeTypes {
  number: number;
  integer: number;
  flag: boolean;
  /** 32 bits of a random generator's key or counter, as an integer from 0 on. */
  seed: number;
  activation: ActivationKind;
}

/** Ops that a backend may lack, but then all of a group. */
export type OpGroup = 'quantizing' | 'dequantizing' | 'experts' | 'short convolutions' | 'optimizers' | 'optimizers of 8 bits';

export interface OpDeclaration {
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  readonly attributes: Readonly<Record<string, keyof AttributeTypes>>;
  readonly inPlace?: Readonly<Record<string, readonly string[]>>;
  readonly fused?: true;
  readonly group?: OpGroup;
}

/** The table as its rows are declared, for those who go through them. */
export const opDeclarations: Readonly<Record<OpName, OpDeclaration>> = opTable;

/** Strips the marks `?` and `+` off an operand's name. */
type Bare<S extends string> = S extends `${infer B}?+` ? B : S extends `${infer B}?` ? B : S extends `${infer B}+` ? B : S;
type Optional<S extends string> = S extends `${string}?` | `${string}?+` ? S : never;
type Operands<S extends string, T> = { readonly [K in Exclude<S, Optional<S>> as Bare<K>]: T } & {
  readonly [K in Optional<S> as Bare<K>]?: T | undefined;
};
type Typed<A> = { readonly [N in keyof A]: A[N] extends keyof AttributeTypes ? AttributeTypes[A[N]] : never };

export type OpInputs<K extends OpName, T> = Operands<(typeof opTable)[K]['inputs'][number], T>;
export type OpOutputs<K extends OpName, T> = Operands<(typeof opTable)[K]['outputs'][number], T>;
export type OpAttributes<K extends OpName> = Typed<(typeof opTable)[K]['attributes']>;

/** An operand's name without its marks, and what the marks say. */
export function operand(declared: string): { name: string; optional: boolean; accumulates: boolean } {
  return { name: declared.replace(/[?+]+$/, ''), optional: declared.includes('?'), accumulates: declared.includes('+') };
}
