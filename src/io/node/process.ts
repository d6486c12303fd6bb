import { readFile } from 'node:fs/promises';

/**
 * Whether the process of this number runs, whoever's it is. Numbers are given out again: with `began`, as `beginningOf` said it then, it
 * must be the same process.
 */
export async function isRunning(pid: number, began?: string): Promise<boolean> {
  try {
    process.kill(pid, 0);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EPERM') return false;
  }
  const now = await beginningOf(pid);
  if (now === 'Z') return false;
  return !began || now === undefined || now === began;
}

/**
 * When a process began, in ticks since the system did; `Z` for one that has ended and whose parent has not asked how. Undefined where the
 * system has no such file (only Linux has).
 */
export async function beginningOf(pid: number): Promise<string | undefined> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => undefined);
  // The 3rd and the 22nd field (proc_pid_stat(5)); the 2nd is the program's name in brackets, which may hold spaces.
  const fields = stat?.slice(stat.lastIndexOf(')') + 2).split(' ');
  return fields && (fields[0] === 'Z' ? 'Z' : fields[19]);
}
