import { resolve } from 'node:path';
import type { Instructions } from './instructions.js';

/** One measured line: ours beside a peer's, and what it should reach. */
export interface Row {
  case: string;
  /** Figures of ours, by name; `share` is the fraction of the machine's peak that the whole reaches. */
  ours: Record<string, number>;
  peer?: Record<string, number | string>;
  /** The dtypes that were taken as the faster ones, where several were measured. */
  dtypes?: { ours: string; peer: string };
  /** Ours ÷ the peer's: speed should be large, memory small. */
  speed?: number;
  memory?: number;
  goal: {
    speed?: number;
    share?: number;
    memory?: number;
    memory_over_line?: number;
    time_over_explained?: number;
    peak_rss_gb?: number;
    beyond_quantized_gb?: number;
    planned_over_measured?: [number, number];
    points_lost?: number;
    curve_distance?: number;
    ratio?: number;
  };
  ok: boolean;
}

export interface Bench {
  /** The venv's Python. */
  python: string;
  /** The instruction set that is measured. */
  instructions: Instructions;
  /** The machine's peaks in it, GFLOP/s. */
  peaks: { bf16: number; f32: number };
  /** Only cases whose names contain this. */
  only?: string;
  note(text: string): void;
}

export const root = resolve(import.meta.dirname, '../..');
export const ours = (name: string) => resolve(root, `build/bench/ours/${name}.js`);
export const peer = (name: string) => resolve(root, `bench/peers/${name}.py`);

/** `ok` where every goal is met. */
export function judged(row: Omit<Row, 'ok'>): Row {
  const { goal, speed, memory, ours } = row;
  const reaches = (value: number | undefined, least: number | undefined) => least === undefined || (value ?? 0) >= least;
  const below = (value: number | undefined, most: number | undefined) => most === undefined || (value ?? Infinity) <= most;
  const ok =
    reaches(speed, goal.speed) &&
    reaches(ours.share, goal.share) &&
    below(memory, goal.memory) &&
    below(ours.memory_over_line, goal.memory_over_line) &&
    below(ours.time_over_explained, goal.time_over_explained) &&
    below(ours.peak_rss_gb, goal.peak_rss_gb) &&
    below(ours.beyond_quantized_gb, goal.beyond_quantized_gb) &&
    below(ours.points_lost, goal.points_lost) &&
    below(ours.curve_distance, goal.curve_distance) &&
    below(ours.ratio, goal.ratio) &&
    reaches(ours.planned_over_measured, goal.planned_over_measured?.[0]) &&
    below(ours.planned_over_measured, goal.planned_over_measured?.[1]);
  return { ...row, ok };
}

export const round = (value: number, digits = 3) => Number(value.toPrecision(digits));
