import { type MemoryCategory, MemoryCounter } from '../core/backend.js';

/** Counts like a backend, and remembers what each category held when the total was largest. */
export class Ledger extends MemoryCounter {
  atPeak: Readonly<Record<MemoryCategory, number>> = { ...this.currentOf };

  override add(bytes: number, category: MemoryCategory): void {
    super.add(bytes, category);
    if (this.current === this.peak) this.atPeak = { ...this.currentOf };
  }
}
