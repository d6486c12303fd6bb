import { adopt } from '../core/scope.js';
import { Storage, Tensor } from '../core/tensor.js';

/** Smaller tensors stay in memory. */
const smallest = 1 << 20;

/** Moves what a pass keeps for its backward pass into files without names of a local folder, until it is read again. */
export class Offload {
  private readonly folder: string;
  private readonly moved = new WeakMap<Storage, Tensor>();

  constructor(folder: string) {
    this.folder = folder;
  }

  /** A copy of the tensor outside of memory, one for all that share it; the tensor itself where it is small or the device has no files. */
  move(tensor: Tensor): Tensor {
    const { backend, storage, shape, dtype, bytes } = tensor;
    if (bytes < smallest || !backend.allocatePaged || !backend.release) return tensor;
    const known = this.moved.get(storage);
    if (known) return known;
    const copy = new Tensor(new Storage(backend, backend.allocatePaged(bytes, 'activations', this.folder)), 0, dtype, shape);
    adopt(copy);
    backend.run('cast', { x: tensor }, { out: copy }, {});
    backend.release(copy, 0);
    this.moved.set(storage, copy);
    return copy;
  }
}
