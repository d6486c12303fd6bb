import type { z } from 'zod';
import { requireOps } from '../core/capabilities.js';
import { unscoped } from '../core/scope.js';
import { empty, type Tensor } from '../core/tensor.js';
import { type Embedding, LayerNorm, Linear, type ModuleAdapter } from '../nn/layers.js';
import type { CausalLM } from '../nn/model.js';
import { LowrankError } from '../util/errors.js';
import { eventLoopTurns } from '../util/event-loop.js';
import type { LoraStack } from './lora-experts.js';
import { findSaved, findStacks, findTargets, type StackTarget, type Target, type TargetConfig } from './targets.js';
import type { ParameterCount, Tuner } from './tuner.js';

/** What the configurations of all methods have: adapter_config.json as far as it is supported. */
export interface AdapterConfig extends TargetConfig {
  readonly peft_type: string;
  /** Which biases of the base are trained as well; `NAME_only`: those of adapted layers. */
  readonly bias: string;
}

/** One way to adapt modules, by PEFT's name for it. */
export interface AdapterMethod<C extends AdapterConfig = AdapterConfig, L extends ModuleAdapter = ModuleAdapter> {
  /** As people write it. */
  readonly title: string;
  readonly schema: z.ZodType<C>;
  /** The schema's keys; every other one must say nothing in a file. */
  readonly keys: ReadonlySet<string>;
  /** Refuses what cannot be loaded, by its name. */
  refuse(fields: Readonly<Record<string, unknown>>, place: string): void;
  /** The adapter of one module, the `index`th, with memory whose contents are undefined; called outside of scopes. */
  layer(target: Target, config: C, index: number): L;
  /** The adapter of a parameter of several experts, where the method has one; as `layer`. */
  stack?(target: StackTarget, config: C): LoraStack;
  /** Gives a new adapter of one layer its first values. */
  initialize(layer: L | LoraStack, config: C, seed: number, index: number): void;
  /** adapter_config.json besides what all methods have; `targets` as they are to be written. */
  fileFields(config: C, targets: string | readonly string[]): Record<string, unknown>;
  /** The settings in a line for the model card. */
  describe(config: C): string;
}

/** A weight or bias of the base model that the adapter trains as a whole: its own f32 copy, and what it stands in for. */
interface Replacement {
  path: string;
  key: 'weight' | 'bias';
  original: Tensor;
  trained: Tensor;
  /** It came with the adapter's file in the place of the base's, and is used and kept, not trained. */
  frozen?: boolean;
}

/** An adapter on a model: attached, its layers answer with their update; detached, the base model answers alone. */
export class Adapter<C extends AdapterConfig = AdapterConfig, L extends ModuleAdapter = ModuleAdapter> implements Tuner {
  readonly model: CausalLM;
  readonly method: AdapterMethod<C, L>;
  readonly config: C;
  /** By the layers' paths. */
  readonly layers: ReadonlyMap<string, L>;
  /** By the paths of experts' parameters. */
  readonly stacks: ReadonlyMap<string, LoraStack>;
  readonly replacements: Replacement[];
  /** The modules that modules_to_save names. */
  private readonly saved: ReadonlySet<string>;
  private attached = false;

  /** Attached at once; its matrices hold nothing sensible yet: a file's tensors or `initialize` fill them. */
  constructor(model: CausalLM, method: AdapterMethod<C, L>, config: C) {
    this.model = model;
    this.method = method;
    this.config = config;
    this.saved = new Set(findSaved(model, config));
    const targets = findTargets(model, config);
    this.layers = unscoped(() => new Map(targets.map((target, index) => [target.path, method.layer(target, config, index)])));
    this.stacks = unscoped(() => new Map(findStacks(model, config).map((target) => [target.path, this.stackOf(target)])));
    this.replacements = unscoped(() => [...this.copyReplacements()]);
    for (const tensor of this.parameters().values()) tensor.requiresGrad = true;
    this.attach();
  }

  private stackOf(target: StackTarget): LoraStack {
    const twice = target.experts.flat().find(({ path }) => this.layers.has(path));
    if (twice) {
      const [place, mend] = ['target_parameters', 'name experts in target_modules or in target_parameters'];
      throw new LowrankError(`"${twice.path}" is adapted twice: it is a part of "${target.path}"`, { place, mend });
    }
    if (this.method.stack) return this.method.stack(target, this.config);
    const place = `target_parameters: ${target.path}`;
    throw new LowrankError(`${this.method.title} does not adapt experts`, { place, mend: 'leave it out, or use LoRA' });
  }

  /** What stands in the slots of linear layers, by their paths. */
  get slots(): ReadonlyMap<string, ModuleAdapter> {
    return new Map<string, ModuleAdapter>([...this.layers, ...[...this.stacks.values()].flatMap(({ parts }) => [...parts])]);
  }

  /** The first values of a new adapter; the same for the same seed. */
  async initialize(seed: number): Promise<void> {
    const turn = eventLoopTurns();
    for (const [index, layer] of [...this.layers.values(), ...this.stacks.values()].entries()) {
      await turn();
      this.method.initialize(layer, this.config, seed, index);
    }
  }

  /** Copies what modules_to_save and bias name into f32 tensors. */
  private *copyReplacements(): Iterable<Replacement> {
    const { model, config, saved } = this;
    const copy = (path: string, key: Replacement['key'], original: Tensor): Replacement => {
      const trained = empty(model.backend, original.shape, 'f32', 'adapters');
      widen(original, trained);
      return { path, key, original, trained };
    };
    for (const [path, module] of model.modules) {
      if (saved.has(path)) yield copy(path, 'weight', module.weight);
      const { bias } = module;
      const trained = saved.has(path) || config.bias === 'all' || (config.bias.endsWith('_only') && this.layers.has(path));
      if (bias && trained) yield copy(path, 'bias', bias);
    }
  }

  /** What is trained, by the names of PEFT's file. */
  parameters(): Map<string, Tensor> {
    const result = new Map<string, Tensor>();
    for (const [path, layer] of this.layers)
      for (const [name, tensor] of Object.entries(layer.parameters())) result.set(`base_model.model.${path}.${name}`, tensor);
    for (const [path, { A, B }] of this.stacks) {
      const block = this.stackName(path);
      result.set(`${block}.lora_A.weight`, A).set(`${block}.lora_B.weight`, B);
    }
    for (const each of this.replacements) if (!each.frozen) result.set(this.nameOf(each), each.trained);
    return result;
  }

  /** What its file holds: the parameters, and what came in the place of weights of the base. */
  tensors(): Map<string, Tensor> {
    const frozen = this.replacements.filter((each) => each.frozen);
    return new Map([...this.parameters(), ...frozen.map((each) => [this.nameOf(each), each.trained] as const)]);
  }

  /** PEFT wraps a block once for each of its parameters, the first one innermost. */
  private stackName(path: string): string {
    const blockOf = (parameter: string) => parameter.slice(0, parameter.lastIndexOf('.'));
    const siblings = [...this.stacks.keys()].filter((other) => blockOf(other) === blockOf(path));
    return `base_model.model.${blockOf(path)}${'.base_layer'.repeat(siblings.length - 1 - siblings.indexOf(path))}`;
  }

  /** The stacks whose lora_B lies otherwise in PEFT's file, by its name there. */
  get reordered(): ReadonlyMap<string, LoraStack> {
    return new Map([...this.stacks].map(([path, stack]) => [`${this.stackName(path)}.lora_B.weight`, stack]));
  }

  private nameOf({ path, key }: Replacement): string {
    return `base_model.model.${path}.${this.layers.has(path) && !this.saved.has(path) ? 'base_layer.' : ''}${key}`;
  }

  /**
   * Puts a tensor f32 that came with the adapter in the place of the base's at these paths, but for those that are trained as a whole.
   * Takes it over.
   */
  adopt(paths: readonly string[], key: Replacement['key'], trained: Tensor): void {
    for (const path of paths) {
      if (this.replacements.some((each) => each.path === path && each.key === key)) continue;
      const module = this.model.modules.get(path);
      const original = key === 'weight' ? module?.weight : module?.bias;
      if (!original) continue;
      this.replacements.push({ path, key, original, trained, frozen: true });
      if (this.attached) this.assign(path, key, trained);
    }
  }

  /** Counts as PEFT's print_trainable_parameters has them: `all` holds the base model, the adapter and its whole copies. */
  count(): ParameterCount {
    const trainable = [...this.parameters().values()].reduce((sum, tensor) => sum + tensor.size, 0);
    const base = new Set<Tensor>();
    for (const module of this.model.modules.values()) {
      base.add(this.originalOf(module.weight));
      if (module.bias) base.add(this.originalOf(module.bias));
    }
    // Trained biases are the base model's own parameters; trained modules stand beside theirs.
    const inPlace = this.replacements.filter(({ path, key, frozen }) => key === 'bias' && !frozen && !this.saved.has(path));
    const shared = inPlace.reduce((sum, { trained }) => sum + trained.size, 0);
    const all = [...base].reduce((sum, tensor) => sum + tensor.size, 0) + trainable - shared;
    return { trainable, all, percent: (100 * trainable) / all };
  }

  private originalOf(tensor: Tensor): Tensor {
    return this.replacements.find(({ trained }) => trained === tensor)?.original ?? tensor;
  }

  /** Switches the adapter on. One adapter at a time is attached to a model; `AdapterSet` keeps several. */
  attach(): void {
    if (this.attached) return;
    for (const [path, layer] of this.slots) this.slotAt(path).adapter = layer;
    for (const { path, key, trained } of this.replacements) this.assign(path, key, trained);
    this.attached = true;
  }

  /** Switches the adapter off: the base model is what it was. */
  detach(): void {
    if (!this.attached) return;
    for (const path of this.slots.keys()) this.slotAt(path).adapter = undefined;
    for (const { path, key, original } of this.replacements) this.assign(path, key, original);
    this.attached = false;
  }

  withBase<R>(body: () => R): R {
    const { attached } = this;
    this.detach();
    try {
      return body();
    } finally {
      if (attached) this.attach();
    }
  }

  /** The method made an adapter of this module's kind. */
  private slotAt(path: string): { adapter?: ModuleAdapter } {
    return this.model.modules.get(path) as Linear | Embedding;
  }

  private assign(path: string, key: Replacement['key'], tensor: Tensor): void {
    const module = this.model.modules.get(path);
    if (key === 'weight' && module) module.weight = tensor;
    else if (module instanceof Linear || module instanceof LayerNorm) module.bias = tensor;
  }

  dispose(): void {
    this.detach();
    for (const tensor of new Set(this.tensors().values())) tensor.dispose();
  }
}

/** Several adapters of one model by name, of which one is active or none. */
export class AdapterSet {
  private readonly adapters = new Map<string, Adapter>();
  private current?: string;

  /** The name of the adapter that answers; undefined where the base model does. */
  get active(): string | undefined {
    return this.current;
  }

  /** Whether there is an adapter of this name. */
  has(name: string): boolean {
    return this.adapters.has(name);
  }

  /** Takes an adapter over; it is detached until it is activated. */
  add(name: string, adapter: Adapter): void {
    adapter.detach();
    this.remove(name);
    this.adapters.set(name, adapter);
  }

  /** Lets the named adapter answer, or without a name the base model alone. */
  activate(name?: string): void {
    if (name !== undefined && !this.adapters.has(name)) {
      const expected = [...this.adapters.keys()].join(', ') || 'none has been added';
      throw new LowrankError(`there is no adapter "${name}"`, { place: 'AdapterSet.activate', expected, mend: 'add it first' });
    }
    if (this.current !== undefined) this.adapters.get(this.current)?.detach();
    if (name !== undefined) this.adapters.get(name)?.attach();
    this.current = name;
  }

  /** Frees the named adapter, if there is one; was it the active one, the base model answers. */
  remove(name: string): void {
    if (this.current === name) this.current = undefined;
    this.adapters.get(name)?.dispose();
    this.adapters.delete(name);
  }

  /** Frees all of them. */
  dispose(): void {
    for (const name of [...this.adapters.keys()]) this.remove(name);
  }
}

/** The numbers of a weight, quantised or not, as f32. */
function widen(weight: Tensor, out: Tensor): void {
  const { backend, quantization } = weight;
  if (!quantization) {
    backend.run('cast', { x: weight }, { out }, {});
    return;
  }
  requireOps(backend, ['dequantize'], 'modules_to_save', 'leave out the matrices that are quantised');
  backend.run('dequantize', { weight, ...quantization }, { out }, {});
}
