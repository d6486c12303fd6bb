/** Environment variables, absent in a browser. */
export function environment(name: string): string | undefined {
  return (globalThis as { process?: { env?: Record<string, string | undefined> } }).process?.env?.[name];
}

/** `DEBUG=1…4`: 1 device and fallbacks, 2 time per op, 3 shapes, 4 shader source. */
export const debugLevel: number = Number.parseInt(environment('DEBUG') ?? '0', 10) || 0;

/** One line on standard error where the level asks for it. */
export function debug(level: 1 | 2 | 3 | 4, message: () => string): void {
  if (debugLevel >= level) console.error(`[lowrank] ${message()}`);
}
