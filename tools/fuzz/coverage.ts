import { Session } from 'node:inspector';

interface CoverageReport {
  result: { url: string; functions: { functionName: string; ranges: { startOffset: number; endOffset: number; count: number }[] }[] }[];
}

/** Which places of the package's own code have run, asked of the engine itself. */
export class Coverage {
  private readonly session = new Session();
  private readonly seen = new Set<string>();

  /** Begins to watch; what was compiled before is watched, too. */
  start(): void {
    this.session.connect();
    this.session.post('Profiler.enable');
    this.session.post('Profiler.startPreciseCoverage', { callCount: false, detailed: true });
  }

  /** How many places have run since the last call that had not run before. */
  news(): number {
    const before = this.seen.size;
    // Without a message to another thread: the callback runs before `post` returns.
    this.session.post('Profiler.takePreciseCoverage', (_, report) => {
      for (const { url, functions } of (report as unknown as CoverageReport).result) {
        if (!url.includes('/dist/') && !url.includes('/planted')) continue;
        for (const { ranges } of functions) {
          for (const { startOffset, endOffset, count } of ranges) if (count > 0) this.seen.add(`${url}:${startOffset}:${endOffset}`);
        }
      }
    });
    return this.seen.size - before;
  }

  get size(): number {
    return this.seen.size;
  }
}
