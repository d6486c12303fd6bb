import type { Backend, MappedRange } from '../core/backend.js';

/**
 * The frozen weights of a model's layers in mapped files, of which a few layers at a time are in memory: while one layer computes the next
 * one is read, and behind it the last one is let go.
 */
export class LayerStream {
  /** Bytes of weights that passes have asked for so far; what the system still had in its cache was not read from the disk. */
  bytesRead = 0;
  private readonly backend: Backend;
  private readonly layers: readonly (readonly MappedRange[])[];
  private readonly present = new Set<number>();

  constructor(backend: Backend, layers: readonly (readonly MappedRange[])[]) {
    this.backend = backend;
    this.layers = layers;
  }

  /**
   * Runs what uses a layer's weights, in a pass that goes forward through the layers, or backward. The last layer of a pass stays for the
   * next one.
   */
  use<R>(layer: number, direction: 'forward' | 'backward', run: () => R): R {
    const next = direction === 'forward' ? Math.min(layer + 1, this.layers.length - 1) : Math.max(layer - 1, 0);
    this.fetch(layer);
    this.fetch(next);
    try {
      return run();
    } finally {
      if (next !== layer) this.release(layer);
    }
  }

  private fetch(layer: number): void {
    if (this.present.has(layer)) return;
    this.present.add(layer);
    for (const range of this.layers[layer]) {
      this.backend.fetch?.(range);
      this.bytesRead += range.bytes;
    }
  }

  private release(layer: number): void {
    this.present.delete(layer);
    for (const range of this.layers[layer]) this.backend.release?.(range, 0);
  }
}
