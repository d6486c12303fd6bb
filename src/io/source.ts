/** A file that can be read piece by piece: on disk, in a browser's Blob, behind HTTP. */
export interface FileSource {
  /** For messages. */
  readonly name: string;
  /** In bytes. */
  readonly size: number;
  /** On a local disk, so that a device may map it. */
  readonly path?: string;
  /** Exactly `length` bytes from `offset`. */
  read(offset: number, length: number): Promise<Uint8Array>;
  close(): Promise<void>;
}
