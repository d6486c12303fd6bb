/** How long a loop may keep other work waiting, in milliseconds. */
const longest = 20;

/** Lets waiting events run now and then: awaited in long loops, it gives the event loop a turn every 20 milliseconds. */
export function eventLoopTurns(): () => Promise<void> | undefined {
  let last = performance.now();
  return () => {
    if (performance.now() - last < longest) return undefined;
    return new Promise((resolve) =>
      setTimeout(() => {
        last = performance.now();
        resolve();
      }),
    );
  };
}
