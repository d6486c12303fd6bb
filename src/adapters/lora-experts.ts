import { empty, type Tensor } from '../core/tensor.js';
import type { Linear, LinearAdapter } from '../nn/layers.js';
import type { ExpertBranch } from '../ops/index.js';
import { LowrankError } from '../util/errors.js';
import type { LoraConfig } from './lora-config.js';
import { rankOf, scaleOf } from './lora-config.js';
import type { StackTarget } from './targets.js';

/**
 * The low-rank updates of one parameter [E,out,in] of E experts, as PEFT's `target_parameters` has them: of expert e rows e·r … of A and
 * rows e·out … of B. The linear layers of an expert whose outputs follow each other, such as gate and up, share its A.
 */
export class LoraStack {
  /** [E·r,in] f32 */
  readonly A: Tensor;
  /** [E·out,r] f32 */
  readonly B: Tensor;
  readonly r: number;
  readonly scale: number;
  readonly experts: number;
  /** What stands in the slots of the experts' layers, by their paths. */
  readonly parts: ReadonlyMap<string, LinearAdapter>;

  constructor({ path, experts }: StackTarget, config: LoraConfig) {
    const [{ weight }] = experts[0].map(({ module }) => module);
    const outputs = experts[0].reduce((sum, { module }) => sum + module.weight.shape[0], 0);
    this.experts = experts.length;
    this.r = rankOf(config, path);
    this.scale = scaleOf(config, path);
    this.A = empty(weight.backend, [experts.length * this.r, weight.shape[1]], 'f32', 'adapters');
    this.B = empty(weight.backend, [experts.length * outputs, this.r], 'f32', 'adapters');
    const parts = experts.flatMap((linears, e) => {
      let row = e * outputs;
      return linears.map(({ path, module }): [string, LinearAdapter] => {
        const [out] = module.weight.shape;
        const part = new StackPart(this, this.A.rows(e * this.r, this.r), this.B.rows(row, out));
        row += out;
        return [path, part];
      });
    });
    this.parts = new Map(parts);
  }

  /** Width of the rows of lora_B in PEFT's file, [out, r·E]: element [o, j·E + e] is that of B's row e·out + o, column j. */
  get fileShape(): readonly number[] {
    return [this.B.shape[0] / this.experts, this.r * this.experts];
  }

  /** B as a file has it, and back. */
  toFile(B: Float32Array): Float32Array {
    const result = new Float32Array(B.length);
    this.eachPlace((own, inFile) => {
      result[inFile] = B[own];
    });
    return result;
  }

  fromFile(B: Float32Array): Float32Array {
    const result = new Float32Array(B.length);
    this.eachPlace((own, inFile) => {
      result[own] = B[inFile];
    });
    return result;
  }

  private eachPlace(visit: (own: number, inFile: number) => void): void {
    const { experts: E, r } = this;
    const [outputs, width] = this.fileShape;
    for (let e = 0; e < E; e++)
      for (let o = 0; o < outputs; o++) for (let j = 0; j < r; j++) visit((e * outputs + o) * r + j, o * width + j * E + e);
  }
}

/** A stack's update of one linear layer. */
class StackPart implements LinearAdapter {
  private readonly stack: LoraStack;
  private readonly A: Tensor;
  private readonly B: Tensor;

  constructor(stack: LoraStack, A: Tensor, B: Tensor) {
    this.stack = stack;
    this.A = A;
    this.B = B;
  }

  forward(_: Linear): never {
    throw new LowrankError('an expert’s layer is computed with its siblings');
  }

  branch(): ExpertBranch {
    const { A, B, stack } = this;
    return { A, B, scale: stack.scale, within: stack };
  }

  parameters(): { 'lora_A.weight': Tensor; 'lora_B.weight': Tensor } {
    return { 'lora_A.weight': this.A, 'lora_B.weight': this.B };
  }

  merge(weight: Tensor): void {
    const { A, B, stack } = this;
    addProduct(B, A, stack.scale, weight);
  }
}

/** weight += scale·B·A */
export function addProduct(B: Tensor, A: Tensor, alpha: number, weight: Tensor): void {
  weight.backend.run('matmul', { a: B, b: A }, { out: weight }, { transposeA: false, transposeB: false, alpha, accumulate: true });
}
