export const schedulers = ['constant', 'constant_with_warmup', 'linear', 'cosine'] as const;

export interface ScheduleOptions {
  lr_scheduler: (typeof schedulers)[number];
  learning_rate: number;
  warmup_steps: number;
  total_steps: number;
  /** The cosine's lowest point as a share of learning_rate. */
  cosine_min_lr_ratio?: number;
}

/** The learning rate of optimizer step `step`, from 0; transformers' optimization.py, so that the first step of a warm-up has rate 0. */
export function learningRate(step: number, options: ScheduleOptions): number {
  const { lr_scheduler: kind, learning_rate: peak, warmup_steps: warmup, total_steps: total, cosine_min_lr_ratio: lowest = 0 } = options;
  if (kind === 'constant') return peak;
  if (step < warmup) return (peak * step) / Math.max(1, warmup);
  const progress = Math.min(1, (step - warmup) / Math.max(1, total - warmup));
  switch (kind) {
    case 'constant_with_warmup':
      return peak;
    case 'linear':
      return peak * (1 - progress);
    case 'cosine':
      return peak * (lowest + ((1 - lowest) * (1 + Math.cos(Math.PI * progress))) / 2);
  }
}
