export { add } from './add.js';
export { type AttentionHeads, type AttentionOptions, attention, type Segments } from './attention.js';
export { type CrossEntropyOptions, likeliestTokens, linearCrossEntropy } from './cross-entropy.js';
export { embedding } from './embedding.js';
export { type ActivationKind, activationKinds, gated } from './gated.js';
export { type DropoutKey, type LinearOptions, type LoraBranch, linear } from './linear.js';
export { rmsNorm } from './norm.js';
export { type RopeTables, rope } from './rope.js';
