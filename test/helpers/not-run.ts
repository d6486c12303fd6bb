import type { Reporter, TestModule, Vitest } from 'vitest/node';

/** The one test of a suite that cannot be run. */
export const notRunTest = 'not run';

/** Lists at the end of a run what was skipped, and why: a skipped test must not look like one that passed. */
export default class NotRun implements Reporter {
  private some = false;

  onInit(vitest: Vitest): void {
    this.some = vitest.config.testNamePattern !== undefined;
  }

  onTestRunEnd(modules: readonly TestModule[]): void {
    const lines = new Set<string>();
    for (const module of modules) {
      for (const test of module.children.allTests('skipped')) {
        const result = test.result();
        const note = result.state === 'skipped' ? result.note : undefined;
        // With -t the others are left out on purpose.
        if (note === undefined && this.some) continue;
        const name = test.name === notRunTest && test.parent.type === 'suite' ? test.parent.fullName : test.fullName;
        lines.add(`not run: ${module.relativeModuleId}: ${name} (${note ?? 'no reason is given'})`);
      }
    }
    for (const line of lines) console.error(line);
  }
}
