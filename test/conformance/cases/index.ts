import type { Case } from '../case.js';
import { attentionCases } from './attention.js';
import { elementwiseCases } from './elementwise.js';
import { expertCases } from './experts.js';
import { lossCases } from './loss.js';
import { normCases } from './norm.js';
import { optimizerCases } from './optimizer.js';
import { productCases } from './products.js';
import { quantizeCases } from './quantize.js';
import { rowCases } from './rows.js';
import { shortConvCases } from './short-conv.js';

export const cases: readonly Case[] = [
  ...elementwiseCases,
  ...productCases,
  ...rowCases,
  ...shortConvCases,
  ...normCases,
  ...lossCases,
  ...attentionCases,
  ...expertCases,
  ...optimizerCases,
  ...quantizeCases,
];
