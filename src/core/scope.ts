import type { Tensor } from './tensor.js';

/** The scopes that are open, innermost last. Ops only enqueue, so a scope never spans an `await`. */
const open: Tensor[][] = [];

/** Makes the innermost scope the holder of a new tensor. Without a scope the caller stays the owner. */
export function adopt(tensor: Tensor): void {
  open.at(-1)?.push(tensor);
}

/**
 * Runs `body` and frees every tensor made in it, except those that a tape saved and those in its result where that is a tensor or an
 * array of tensors, which pass to the surrounding scope or, at the outermost, to the caller.
 */
export function scope<R>(body: () => R): R {
  const made: Tensor[] = [];
  open.push(made);
  let result: R | undefined;
  try {
    result = body();
    return result;
  } finally {
    open.pop();
    const kept = new Set(Array.isArray(result) ? (result as Tensor[]) : [result as Tensor]);
    for (const tensor of made) {
      if (kept.has(tensor)) adopt(tensor);
      else tensor.storage.release();
    }
  }
}

/** Gives a tensor of the innermost scope back before the scope ends; a tape that saved it still has it. */
export function discard(tensor: Tensor): void {
  const made = open.at(-1);
  const place = made?.lastIndexOf(tensor) ?? -1;
  if (!made || place < 0) return;
  made.splice(place, 1);
  tensor.storage.release();
}

/** Runs `body` outside every scope: what it makes belongs to its caller. For parameters, states and caches. */
export function unscoped<R>(body: () => R): R {
  const outer = open.splice(0);
  try {
    return body();
  } finally {
    open.push(...outer);
  }
}
