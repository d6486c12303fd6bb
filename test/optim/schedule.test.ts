import { expect, test } from 'vitest';
import { learningRate, type ScheduleOptions } from '../../src/optim/schedule.js';
import golden from '../golden/schedules.json' with { type: 'json' };

test.each(golden)('$lr_scheduler, warm-up $warmup_steps of $total_steps, equals transformers', ({ rates, ...options }) => {
  const schedule = { ...options, cosine_min_lr_ratio: options.cosine_min_lr_ratio ?? undefined, learning_rate: 2e-4 } as ScheduleOptions;
  rates.forEach((rate, step) => {
    expect(Math.abs(learningRate(step, schedule) - rate)).toBeLessThan(1e-12);
  });
});
