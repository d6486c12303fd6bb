import type { TensorToWrite } from '../io/safetensors.js';

/**
 * Tensors to be written that say when their turns come: `onTurn` hears how many there were and will be. Once the signal has fired the next
 * turn throws its reason.
 */
export function inTurns(
  tensors: readonly TensorToWrite[],
  onTurn: (done: number, total: number) => void,
  signal?: AbortSignal,
): TensorToWrite[] {
  let done = 0;
  return tensors.map((tensor) => ({
    ...tensor,
    data: () => {
      signal?.throwIfAborted();
      onTurn(++done, tensors.length);
      return tensor.data();
    },
  }));
}
