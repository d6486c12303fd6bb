/**
 * Before each test file: every message of a LowrankError that any test causes is looked at. One that says "undefined" was made of a value
 * that was not there, and tells nobody anything; the test fails at its end, whatever it expected of the error.
 */
import { afterEach, expect, vi } from 'vitest';

const messages = vi.hoisted(() => ({
  empty: [] as string[],
  // A template's own engine speaks of undefined values, and means them.
  isEmpty: (text: string) => /\bundefined\b|\[object Object\]/.test(text) && !text.includes('the chat template fails'),
}));

vi.mock('../../src/util/errors.js', async (original) => {
  const errors = await original<typeof import('../../src/util/errors.js')>();
  class LowrankError extends errors.LowrankError {
    constructor(...parts: ConstructorParameters<typeof errors.LowrankError>) {
      super(...parts);
      if (messages.isEmpty(this.message)) messages.empty.push(this.message);
    }
  }
  return { ...errors, LowrankError };
});

afterEach(() => expect(messages.empty.splice(0)).toEqual([]));
