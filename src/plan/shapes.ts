import { publishedShapes } from '../models/families.js';
import { LowrankError, nearest } from '../util/errors.js';
import type { JsonObject } from '../util/json.js';

export function shapeNames(): string[] {
  return [...publishedShapes().keys()];
}

/** The config.json of a shape that is known under this name, whatever the case of its letters. */
export function knownShape(name: string): JsonObject | undefined {
  return publishedShapes().get(name.toLowerCase());
}

/** The error for a model that is neither a known shape nor found in any other way. */
export function unknownShape(name: string, cause: unknown): LowrankError {
  const near = nearest(name.toLowerCase(), shapeNames());
  return new LowrankError(`"${name}" is neither a model that can be opened nor a known shape`, {
    place: '--model',
    expected: `a folder, an id of the hub, or one of ${shapeNames().join(', ')}`,
    mend: near ? `write "${near}"` : 'name one of these, or a folder with a config.json',
    cause,
  });
}
