import { scope } from '../core/scope.js';
import { empty, type Tensor, zeros } from '../core/tensor.js';
import { LowrankError } from '../util/errors.js';
import { Linear } from './layers.js';
import type { CausalLM } from './model.js';

/**
 * The error that names the first weight with a NaN or an infinity, of the base or of what stands in its slots; undefined where all are
 * finite. Reads every weight but those that are `spared`: only what has failed already pays for that.
 */
export async function notFiniteWeight(model: CausalLM, spared?: ReadonlySet<Tensor>): Promise<LowrankError | undefined> {
  for (const [path, module] of model.modules) {
    const parts: [string, Tensor][] = [['weight', module.weight]];
    if (module.bias) parts.push(['bias', module.bias]);
    if (module instanceof Linear && module.adapter) parts.push(...Object.entries(module.adapter.parameters()));
    for (const [name, tensor] of parts) {
      if (spared?.has(tensor) || Number.isFinite(await sumOfSquares(tensor))) continue;
      return new LowrankError('holds NaN or infinity, so nothing can be computed with it', {
        place: `tensor "${path}.${name}"`,
        expected: 'finite numbers',
        mend: 'download the model or adapter again, or take one whose weights are whole',
      });
    }
  }
  return undefined;
}

async function sumOfSquares(weight: Tensor): Promise<number> {
  const { backend, quantization } = weight;
  const sum = scope(() => {
    const out = zeros(backend, [1], 'f32', 'workspace');
    const x = quantization ? empty(backend, weight.shape, 'f32', 'workspace') : weight;
    if (quantization) backend.run('dequantize', { weight, ...quantization }, { out: x }, {});
    backend.run('sumSquares', { x }, { out }, {});
    return out;
  });
  try {
    return (await sum.toFloat32())[0];
  } finally {
    sum.dispose();
  }
}
