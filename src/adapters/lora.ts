import { unscoped } from '../core/scope.js';
import { empty, type Tensor } from '../core/tensor.js';
import { Linear, type LoraLayer } from '../nn/layers.js';
import type { CausalLM } from '../nn/model.js';
import { eventLoopTurns } from '../util/event-loop.js';
import { Random, streams } from '../util/philox.js';
import type { LoraConfig } from './config.js';
import { findSaved, findTargets, type LoraTarget } from './targets.js';
import type { ParameterCount, Tuner } from './tuner.js';

/** A weight or bias of the base model that the adapter trains as a whole: its own f32 copy, and what it stands in for. */
interface Replacement {
  path: string;
  key: 'weight' | 'bias';
  original: Tensor;
  trained: Tensor;
}

/** A LoRA adapter on a model: attached, its layers answer with their update; detached, the base model answers alone. */
export class LoraAdapter implements Tuner {
  readonly model: CausalLM;
  readonly config: LoraConfig;
  readonly layers = new Map<string, LoraLayer & LoraTarget>();
  readonly replacements: Replacement[] = [];

  private constructor(model: CausalLM, config: LoraConfig) {
    this.model = model;
    this.config = config;
  }

  /** An adapter, attached, whose matrices hold nothing sensible yet; a file's tensors fill them. */
  static allocate(model: CausalLM, config: LoraConfig): LoraAdapter {
    const adapter = new LoraAdapter(model, config);
    const saved = new Set(findSaved(model, config));
    unscoped(() => {
      findTargets(model, config).forEach((target, index) => {
        const [outputs, inputs] = target.module.weight.shape;
        const [A, B] = [matrix(model, target.r, inputs), matrix(model, outputs, target.r)];
        adapter.layers.set(target.path, { ...target, A, B, dropout: config.lora_dropout, stream: streams.dropout + index });
      });
      adapter.copyReplacements(saved);
    });
    adapter.attach();
    return adapter;
  }

  /**
   * A new adapter, attached. A is uniform in ±1/√in and B zero (init_lora_weights true), A normal with deviation 1/r ("gaussian"), or both
   * uniform (false), as PEFT's LoraLayer.reset_lora_parameters; each matrix draws from a stream of its own.
   */
  static async create(model: CausalLM, config: LoraConfig, seed: number): Promise<LoraAdapter> {
    const adapter = LoraAdapter.allocate(model, config);
    const turn = eventLoopTurns();
    for (const [index, { A, B, r }] of [...adapter.layers.values()].entries()) {
      await turn();
      const draw = (tensor: Tensor, lane: number, value: (random: Random) => number) => {
        const random = new Random(seed, streams.init + 2 * index + lane);
        tensor.write(new Uint8Array(Float32Array.from({ length: tensor.size }, () => value(random)).buffer));
      };
      const uniform = (limit: number) => (random: Random) => (2 * random.next() - 1) * limit;
      draw(A, 0, config.init_lora_weights === 'gaussian' ? (random) => random.normal() / r : uniform(1 / Math.sqrt(A.shape[1])));
      if (config.init_lora_weights === false) draw(B, 1, uniform(1 / Math.sqrt(r)));
      else B.write(new Uint8Array(B.bytes));
    }
    return adapter;
  }

  /** Copies what modules_to_save and bias name into trainable f32 tensors. */
  private copyReplacements(saved: ReadonlySet<string>): void {
    const { model, config } = this;
    for (const [path, module] of model.modules) {
      if (saved.has(path)) this.replace(path, 'weight', module.weight);
      const bias = module instanceof Linear ? module.bias : undefined;
      const trained = saved.has(path) || config.bias === 'all' || (config.bias === 'lora_only' && this.layers.has(path));
      if (bias && trained) this.replace(path, 'bias', bias);
    }
  }

  private replace(path: string, key: 'weight' | 'bias', original: Tensor): void {
    const trained = empty(this.model.backend, original.shape, 'f32', 'adapters');
    widen(original, trained);
    trained.requiresGrad = true;
    this.replacements.push({ path, key, original, trained });
  }

  /** The trainable tensors under the names that PEFT's files give them, f32. */
  parameters(): Map<string, Tensor> {
    const result = new Map<string, Tensor>();
    const saved = new Set(findSaved(this.model, this.config));
    for (const [path, { A, B }] of this.layers) {
      result.set(`base_model.model.${path}.lora_A.weight`, A);
      result.set(`base_model.model.${path}.lora_B.weight`, B);
    }
    for (const { path, key, trained } of this.replacements) {
      const wrapped = this.layers.has(path) && !saved.has(path);
      result.set(`base_model.model.${path}.${wrapped ? 'base_layer.' : ''}${key}`, trained);
    }
    return result;
  }

  /** Counts as PEFT's print_trainable_parameters has them: `all` holds the base model, the adapter and its whole copies. */
  count(): ParameterCount {
    const trainable = [...this.parameters().values()].reduce((sum, tensor) => sum + tensor.size, 0);
    const base = new Set<Tensor>();
    for (const module of this.model.modules.values()) {
      base.add(this.originalOf(module.weight));
      if (module instanceof Linear && module.bias) base.add(this.originalOf(module.bias));
    }
    // Trained biases are the base model's own parameters; trained modules stand beside theirs.
    const inPlace = this.replacements.filter(({ path, key }) => key === 'bias' && !findSaved(this.model, this.config).includes(path));
    const shared = inPlace.reduce((sum, { trained }) => sum + trained.size, 0);
    const all = [...base].reduce((sum, tensor) => sum + tensor.size, 0) + trainable - shared;
    return { trainable, all, percent: (100 * trainable) / all };
  }

  private originalOf(tensor: Tensor): Tensor {
    return this.replacements.find(({ trained }) => trained === tensor)?.original ?? tensor;
  }

  /** Switches the adapter on. One adapter at a time can be attached to a model. */
  attach(): void {
    for (const layer of this.layers.values()) layer.module.lora = layer;
    for (const { path, key, trained } of this.replacements) this.assign(path, key, trained);
  }

  /** Switches the adapter off: the base model is what it was. */
  detach(): void {
    for (const { module } of this.layers.values()) module.lora = undefined;
    for (const { path, key, original } of this.replacements) this.assign(path, key, original);
  }

  private assign(path: string, key: 'weight' | 'bias', tensor: Tensor): void {
    const module = this.model.modules.get(path);
    if (key === 'weight' && module) module.weight = tensor;
    else if (module instanceof Linear) module.bias = tensor;
  }

  dispose(): void {
    this.detach();
    for (const tensor of this.parameters().values()) tensor.dispose();
  }
}

function matrix(model: CausalLM, rows: number, columns: number): Tensor {
  const tensor = empty(model.backend, [rows, columns], 'f32', 'adapters');
  tensor.requiresGrad = true;
  return tensor;
}

/** The numbers of a weight, quantised or not, as f32. */
function widen(weight: Tensor, out: Tensor): void {
  const { backend, quantization } = weight;
  if (quantization) backend.run('dequantize', { weight, ...quantization }, { out }, {});
  else backend.run('cast', { x: weight }, { out }, {});
}
