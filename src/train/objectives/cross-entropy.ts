import { supervisedRows } from '../batch.js';
import type { Objective } from './objective.js';

/** The mean loss of the supervised tokens: supervised fine-tuning. */
export const crossEntropy: Objective = {
  name: 'cross_entropy',
  count: ({ labels }) => supervisedRows(labels).length,
};
