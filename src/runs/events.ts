import type { ParameterCount } from '../adapters/tuner.js';
import type { MemoryUse } from '../core/backend.js';
import type { Framing } from '../data/contract.js';
import type { DataStatistics } from '../data/prepare.js';
import type { MethodPlan } from '../plan/plan.js';
import type { StepRecord } from '../train/loop.js';

/** Where a training stands. Seconds and tokens count from this run's own first step. */
export interface Progress {
  seconds: number;
  remaining_seconds: number;
  tokens: number;
  tokens_per_second: number;
}

/** How a training went and where its result is. */
export interface TrainResult {
  /** That the result has behind it, */
  steps: number;
  /** of which this run made so many: fewer where it went on from a checkpoint. */
  trained_steps: number;
  total_steps: number;
  interrupted: boolean;
  /** Why `stopAfter` ended the run. */
  stopped?: string;
  /** Of the last step, and the mean of the last tenth of the steps of this run. */
  loss: number;
  mean_loss: number;
  eval_loss?: number;
  seconds: number;
  tokens: number;
  tokens_per_second: number;
  /** How the rows framed a prompt, and so how one is asked now. */
  framing: Framing;
  /** output_dir, where an adapter was trained, */
  adapter_dir?: string;
  /** and where the whole model was. */
  model_dir?: string;
  /** Bytes of tensors. */
  memory: MemoryUse;
  /** Of weights that were read from their file as they were used. */
  streamed_bytes_per_step?: number;
}

/** What `startRun` knows besides: bytes that the process held at most, and would hold by the plan. */
export interface RunResult extends TrainResult {
  peak_rss_bytes: number;
  planned_rss_bytes: number;
  /** The system message that all rows began with. */
  system?: string;
}

/** What happens on the way to a model that is ready: every command with a model may hear of it. */
export type SessionEvent =
  | { type: 'warning'; message: string }
  /** Of a file of the model that is fetched from the hub. */
  | { type: 'download'; file: string; done_bytes: number; total_bytes: number }
  /** The backend's name, and a line about it for people. */
  | { type: 'device'; name: string; description: string }
  /** A base that is to be streamed is quantised into a file at `path`; in tensors, from 0 on. */
  | { type: 'quantizing'; model: string; path: string; done: number; total: number }
  /** The base stays in its file. */
  | { type: 'streaming'; bytes: number; path: string }
  /** In tensors. */
  | { type: 'loading'; model: string; done: number; total: number };

/** What happens while a model is trained. */
export type TrainEvent =
  | { type: 'warning'; message: string }
  /** `step` is the one that a resumed run goes on from, or 0. */
  | ({ type: 'start'; total_steps: number; steps_per_epoch: number; step: number } & ParameterCount)
  /** `logged`: a step of logging_steps, or the last one of the recipe. Others are of interest to bars alone. */
  | { type: 'step'; record: StepRecord; progress: Progress; logged: boolean }
  | { type: 'evaluation'; step: number; loss: number; perplexity: number }
  | { type: 'checkpoint'; step: number; path: string }
  /** The result is in place. */
  | { type: 'save'; step: number; path: string };

/**
 * All that happens in a run, in this order: download, data (one each), steps, plan, device, quantizing, streaming, loading, start, then
 * steps with evaluations, checkpoints and the profile between them, save, end; warnings where their cause is. A terminal, a log or a page
 * is a listener.
 */
export type RunEvent =
  | SessionEvent
  /** What a data set holds after its preparation. */
  | { type: 'data'; path: string; held_out: boolean; statistics: DataStatistics }
  /** How many steps the data make. */
  | { type: 'steps'; total_steps: number; steps_per_epoch: number }
  | { type: 'plan'; plan: MethodPlan; memory_bytes: number }
  | TrainEvent
  | { type: 'profile'; step: number; path: string }
  | { type: 'end'; result: RunResult };
