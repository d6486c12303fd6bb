export type { ActivationKind } from '../core/ops.table.js';
export { activation } from './activation.js';
export { add } from './add.js';
export { type AttentionHeads, type AttentionOptions, attention, type Segments } from './attention.js';
export { columns } from './columns.js';
export { type CrossEntropyOptions, likeliestTokens, linearCrossEntropy } from './cross-entropy.js';
export { embedding } from './embedding.js';
export {
  type Balance,
  combineRows,
  dispatchRows,
  type ExpertBranch,
  type ExpertLinear,
  groupedLinear,
  type RouteOptions,
  type Routing,
  route,
} from './experts.js';
export { gated } from './gated.js';
export { type DropoutKey, type LinearOptions, type LoraBranch, linear } from './linear.js';
export { mul } from './mul.js';
export { layerNorm, rmsNorm } from './norm.js';
export { reshape } from './reshape.js';
export { type RopeOptions, type RopeTables, rope } from './rope.js';
export { scale } from './scale.js';
export { type ConvState, shortConv } from './short-conv.js';
export { softcap } from './softcap.js';
