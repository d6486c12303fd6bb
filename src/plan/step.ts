import { chunkElements } from '../ops/cross-entropy.js';
import { activationBytes, type PlanInput } from './input.js';
import type { Ledger } from './ledger.js';
import { elementsOf, trainedOf } from './parameters.js';
import { type LayerMatrix, layerMatrices, type Matrix, sum } from './shape.js';

/** Bytes of what one linear layer adds to a step: of its adapter h or dh, and the dropout mask; of its gradients, f32. */
interface LinearBytes {
  readonly lora: boolean;
  readonly keepsInput: boolean;
  readonly h: number;
  readonly mask: number;
  readonly gradients: number;
}

/** What a part of a layer needs besides, in bytes: the values of one pass over T tokens. */
interface Values {
  /** One of [T,C], [T,H·D], [T,G·D], [T,F]. */
  readonly C: number;
  readonly Q: number;
  readonly K: number;
  readonly F: number;
  /** An f32 for each token. */
  readonly row: number;
  /** Of attention: an f32 for each token and head. */
  readonly lse: number;
}

/**
 * Follows one micro-batch through forward, loss and backward and counts what is allocated and freed, in the order of src/ops, src/nn and
 * src/models/llama.ts: a tape holds what its entries saved until their vjp has run, a scope all that was made in it until it ends.
 */
export class StepWalk {
  private readonly input: PlanInput;
  private readonly ledger: Ledger;
  private readonly values: Values;
  private readonly element: number;
  private readonly tokens: number;
  /** True where all gradients are there already, from an earlier micro-batch: then each new one is added and freed. */
  private readonly later: boolean;

  constructor(input: PlanInput, ledger: Ledger, later: boolean) {
    const { C, F, H, G, D } = input.shape;
    this.input = input;
    this.ledger = ledger;
    this.later = later;
    this.element = activationBytes(input);
    this.tokens = sum(input.examples);
    const [row, wide] = [this.tokens * 4, this.tokens * this.element];
    this.values = { C: wide * C, Q: wide * H * D, K: wide * G * D, F: wide * F, row, lse: row * H };
  }

  run(): void {
    const { ledger, input, values } = this;
    const { shape } = input;
    const { C, row } = values;
    // Positions and token ids, and the segments' table.
    const inputs = row + 16 * input.examples.length;
    ledger.add(inputs + row + C, 'activations');
    for (let i = 0; i < shape.L; i++) this.forward(i);
    ledger.add(C + row, 'activations');
    if (!this.trainsEmbedding) ledger.remove(row, 'activations');
    this.loss();
    // The gradient of the last norm's input; that input is freed, or else kept by its layer's checkpoint.
    ledger.add(C, 'activations');
    this.gradient(input.method === 'full' ? 4 * shape.C : 0);
    ledger.remove(row + (input.gradient_checkpointing ? 0 : C), 'activations');
    for (let i = shape.L - 1; i >= 0; i--) this.backward(i);
    if (this.trainsEmbedding) this.embeddingGradient();
    // What the micro-batch's scope held: hidden states, their gradient, the inputs, losses and labels.
    const left = ledger.currentOf.activations;
    ledger.remove(left, 'activations');
  }

  private get trainsEmbedding(): boolean {
    const { method, saved, shape } = this.input;
    return method === 'full' || saved.includes(shape.embedding.path);
  }

  /** Counts new gradients: kept, or summed into those that are there. */
  private gradient(bytes: number): void {
    if (bytes === 0) return;
    this.ledger.add(bytes, 'gradients');
    if (this.later) this.ledger.remove(bytes, 'gradients');
  }

  private linear(matrix: Matrix): LinearBytes {
    const trained = trainedOf(matrix, this.input);
    const lora = this.input.method !== 'full' && this.input.ranks[matrix.path] !== undefined;
    const rank = lora ? this.input.ranks[matrix.path] : 0;
    return {
      lora,
      keepsInput: trained.length > 0,
      h: this.tokens * this.element * rank,
      mask: lora && this.input.dropout ? this.values.row * Math.ceil(matrix.inputs / 32) : 0,
      gradients: 4 * sum(trained.map(elementsOf)),
    };
  }

  /** Whether gradients flow through a layer's input: something before it is trained, or it lies behind a checkpoint. */
  private flowsInto(i: number): boolean {
    const { input } = this;
    if (this.trainsEmbedding || (i > 0 && input.gradient_checkpointing)) return true;
    return input.shape.layers.slice(0, i).some((layer) => layerMatrices.some((name) => this.linear(layer[name]).keepsInput));
  }

  /**
   * Of layer i: what its forward pass makes, what of it a tape keeps for backward, and what a checkpoint keeps in both passes (output, y, the
   * heads' output and lse). The input of a layer belongs to the one before it.
   */
  private layer(i: number) {
    const { shape, method } = this.input;
    const { C, Q, K, F, row, lse } = this.values;
    const parts = Object.fromEntries(layerMatrices.map((name) => [name, this.linear(shape.layers[i][name])])) as Record<
      LayerMatrix,
      LinearBytes
    >;
    const { q_proj: q, k_proj: k, v_proj: v, o_proj: o, gate_proj: gate, up_proj: up, down_proj: down } = parts;
    const flows = this.flowsInto(i);
    const attends = flows || [q, k, v].some(({ keepsInput }) => keepsInput);
    const mixes = attends || o.keepsInput;
    const gates = mixes || gate.keepsInput || up.keepsInput;
    const outputs = gates || down.keepsInput;
    const kept = { output: C, y: C, heads: Q, lse };
    const branches = sum(Object.values(parts).map(({ h, mask }) => h + mask));
    const headNorms = shape.headNorms ? Q + K + row * (shape.H + shape.G) : 0;
    const postNorms = shape.postNorms ? 2 * (C + row) : 0;
    const normed = (wanted: LinearBytes[]) => (wanted.some(({ keepsInput }) => keepsInput) ? C : 0);
    const when = (condition: boolean, bytes: number) => (condition ? bytes : 0);
    return {
      ...parts,
      flows,
      attends,
      mixes,
      gates,
      kept,
      normGradients: method === 'full' ? 4 * shape.C : 0,
      /** By name, the bytes that entries of the tape hold besides what a checkpoint keeps. */
      saved: {
        norm1: when(flows || method === 'full', row),
        n1: normed([q, k, v]),
        qkv: when(attends, Q + 2 * K),
        norm2: when(mixes || method === 'full', row),
        n2: normed([gate, up]),
        gated: when(gates, 2 * F),
        hidden: when(down.keepsInput, F),
        branches,
        extra: when(outputs, headNorms + postNorms),
      },
      /** Made by the layer besides what a checkpoint keeps. */
      made: 2 * (C + row) + (Q + 2 * K) + 3 * F + branches + headNorms + postNorms + (shape.postNorms ? 2 * C : 0),
    };
  }

  private forward(i: number): void {
    const { ledger, input } = this;
    const layer = this.layer(i);
    const { output, y, heads, lse } = layer.kept;
    const kept = output + y + heads + lse;
    ledger.add(layer.made + kept, 'activations');
    if (input.gradient_checkpointing) return ledger.remove(layer.made, 'activations');
    const saved = sum(Object.values(layer.saved));
    const tape = output + (layer.mixes ? y : 0) + (layer.attends ? heads + lse : layer.o.keepsInput ? heads : 0);
    ledger.remove(layer.made - saved + kept - tape, 'activations');
    // The embedding's rows, where no gradient asks for them; `x` of later layers is freed with their tape entries.
    if (!layer.flows) ledger.remove(this.values.C, 'activations');
  }

  /** Projection, softmax and gradient of the supervised positions, a chunk at a time. */
  private loss(): void {
    const { ledger, element, values } = this;
    const { shape, supervised } = this.input;
    const head = this.linear(shape.head);
    const count = Math.max(1, supervised);
    const chunks = Math.ceil(count / Math.max(1, Math.floor(chunkElements / shape.V)));
    const rows = Math.ceil(count / chunks);
    // Rows, targets and losses; dx.
    ledger.add(12 * count + values.C, 'activations');
    for (let i = 0; i < chunks; i++) {
      const chunk = rows * element * shape.C + (rows * head.h) / Math.max(1, this.tokens);
      ledger.add(chunk, 'activations');
      ledger.add(4 * rows * shape.V, 'logits');
      ledger.add(chunk, 'activations');
      if (head.gradients > 0) {
        ledger.add(head.gradients, 'gradients');
        if (i > 0 || this.later) ledger.remove(head.gradients, 'gradients');
      }
      ledger.remove(2 * chunk, 'activations');
      ledger.remove(4 * rows * shape.V, 'logits');
    }
  }

  private backward(i: number): void {
    const { ledger } = this;
    const { C, Q, K, F } = this.values;
    const checkpointed = this.input.gradient_checkpointing;
    const layer = this.layer(i);
    const { saved, kept } = layer;
    if (checkpointed) {
      ledger.add(layer.made, 'activations');
      ledger.remove(layer.made - sum(Object.values(saved)), 'activations');
    }
    /** One vjp: `makes` is left for the next one, `frees` was left by the last ones or saved by the tape. */
    const vjp = (makes: number, part: LinearBytes | undefined, frees: number) => {
      const dh = part?.h ?? 0;
      ledger.add(makes + dh, 'activations');
      if (part) this.gradient(part.gradients);
      ledger.remove(dh + frees + (part ? part.h + part.mask : 0), 'activations');
    };
    vjp(layer.gates ? F : 0, layer.down_proj, saved.hidden);
    // The gradients of gate and up take their place.
    vjp(0, undefined, layer.gates ? F : 0);
    vjp(layer.mixes ? C : 0, layer.up_proj, layer.gates ? F : 0);
    vjp(0, layer.gate_proj, (layer.gates ? F : 0) + saved.n2);
    // A checkpoint's vjp still holds the gradient that it was given, so that the norm cannot write into it.
    const second = checkpointed && layer.mixes ? C : 0;
    vjp(second, undefined, 0);
    this.gradient(layer.normGradients);
    ledger.remove((layer.mixes ? C : 0) + saved.norm2 + (checkpointed || !layer.mixes ? 0 : kept.y), 'activations');
    vjp(layer.attends ? Q : 0, layer.o_proj, layer.attends || checkpointed || !layer.o_proj.keepsInput ? 0 : kept.heads);
    vjp(layer.attends ? Q + 2 * K : 0, undefined, saved.qkv + (layer.attends ? Q + (checkpointed ? 0 : kept.heads + kept.lse) : 0));
    vjp(layer.flows ? C : 0, layer.v_proj, layer.attends ? K : 0);
    vjp(0, layer.k_proj, layer.attends ? K : 0);
    vjp(0, layer.q_proj, (layer.attends ? Q : 0) + saved.n1);
    this.gradient(layer.normGradients);
    const input = layer.flows && (!checkpointed || i === 0) ? C : 0;
    ledger.remove((layer.flows ? C : 0) + saved.norm1 + saved.extra + second, 'activations');
    // The layer's input was the output of the one before, or the embedding's rows.
    if (checkpointed) ledger.remove(kept.output + kept.y + kept.heads + kept.lse + (i === 0 ? C : 0), 'activations');
    else ledger.remove(input, 'activations');
  }

  private embeddingGradient(): void {
    const { shape } = this.input;
    const bytes = 4 * shape.embedding.outputs * shape.embedding.inputs;
    this.ledger.add(bytes, 'gradients');
    // A tied head has put its gradient there already.
    if (this.later || (shape.tied && this.input.method === 'full')) this.ledger.remove(bytes, 'gradients');
  }
}
