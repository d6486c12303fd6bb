import { readdir, stat, statfs } from 'node:fs/promises';
import { availableParallelism, cpus, freemem, totalmem } from 'node:os';
import { join } from 'node:path';
import { type CpuBackend, cpuInstructionSets, describeAddon, openCpuBackend } from '../backends/cpu/index.js';
import type { Backend } from '../core/backend.js';
import { composedOps } from '../core/capabilities.js';
import { BackendUnavailable } from '../core/device.js';
import { cacheFolder } from '../io/node.js';
import { quantizedFolder } from '../runs/node.js';
import { LowrankError } from '../util/errors.js';
import { bytes } from '../util/format.js';
import type { Terminal } from './console.js';

interface Finding {
  name: string;
  ok: boolean;
  value: string;
  mend?: string;
}

/** `lowrank doctor`: what this machine offers, what is wrong and what mends it. Exit code 1 where something is. */
export async function doctorCommand(terminal: Terminal): Promise<void> {
  const findings: Finding[] = [node(), processor(), memory(), ...(await native(terminal)), await disk(), ...(await quantizedBases())];
  const { colors } = terminal;
  const lines = findings.map(({ name, ok, value, mend }) => {
    const mark = ok ? colors.green('ok') : colors.red('!!');
    return `${mark} ${name.padEnd(16)}${value}${mend ? `\n${' '.repeat(19)}to mend: ${mend}` : ''}`;
  });
  const ok = findings.every((finding) => finding.ok);
  terminal.result({ ok, findings }, lines.join('\n'));
  if (!ok) process.exitCode = 1;
}

function node(): Finding {
  const [major, minor] = process.versions.node.split('.').map(Number);
  const ok = major > 20 || (major === 20 && minor >= 19);
  return {
    name: 'Node',
    ok,
    value: `${process.versions.node}, ${process.platform} ${process.arch}`,
    mend: ok ? undefined : 'install Node 20.19 or newer',
  };
}

function processor(): Finding {
  return { name: 'processor', ok: true, value: `${cpus()[0]?.model.trim() ?? 'unknown'}, ${availableParallelism()} threads` };
}

function memory(): Finding {
  return { name: 'memory', ok: true, value: `${bytes(totalmem())}, ${bytes(freemem())} free` };
}

async function native(terminal: Terminal): Promise<Finding[]> {
  let backend: CpuBackend | undefined;
  try {
    backend = await openCpuBackend();
    const findings = [
      { name: 'backend', ok: true, value: `${backend.description} (this machine has ${cpuInstructionSets().join(', ')})` },
      addon(),
      fusedOps(backend),
    ];
    terminal.bar(0.5, 'measuring the peak');
    const [bf16, f32] = [await backend.measurePeak('bf16'), await backend.measurePeak('f32')];
    terminal.clearBar();
    findings.push({ name: 'peak', ok: true, value: `${bf16.toFixed(0)} GFLOP/s bf16, ${f32.toFixed(0)} GFLOP/s f32` });
    return findings;
  } catch (error) {
    if (!(error instanceof LowrankError)) throw error;
    const { place, problem, mend } = error;
    const means = error instanceof BackendUnavailable ? `: reference serves, ${error.without}` : '';
    return [{ name: 'backend', ok: false, value: `${place === undefined ? '' : `${place}: `}${problem}${means}`, mend }];
  } finally {
    await backend?.close();
  }
}

/** Which fused ops the backend lacks: what is composed in their place gives the same, more slowly. */
export function fusedOps(backend: Backend): Finding {
  const composed = composedOps(backend);
  const value = composed.length === 0 ? 'all' : `all but ${composed.join(', ')}, composed of other ops instead: slower`;
  return { name: 'fused ops', ok: true, value };
}

/** Where the addon came from; instruction sets that it lacks are slowness that nobody sees. */
function addon(): Finding {
  const { path, platformPackage, missingSets } = describeAddon();
  const origin = platformPackage === undefined ? 'built on this machine' : `from the package ${platformPackage}`;
  const ok = missingSets.length === 0;
  const lack = ok ? '' : `; without ${missingSets.join(', ')}, which this machine has`;
  return { name: 'addon', ok, value: `${path}, ${origin}${lack}`, mend: ok ? undefined : 'npx lowrank build-native --all' };
}

async function disk(): Promise<Finding> {
  const path = cacheFolder();
  let existing = path;
  for (;;) {
    try {
      const { bavail, bsize } = await statfs(existing);
      const free = bavail * bsize;
      const ok = free > 1e9;
      return {
        name: 'model cache',
        ok,
        value: `${path}, ${bytes(free)} free`,
        mend: ok ? undefined : 'make room, or set HF_HOME to another disk',
      };
    } catch {
      const parent = existing.replace(/[/\\][^/\\]*$/, '');
      if (parent === existing || parent === '') return { name: 'model cache', ok: true, value: path };
      existing = parent;
    }
  }
}

/** What streaming runs keep beside the models: as large as a model in 4 bits each, and nothing removes them by itself. */
async function quantizedBases(): Promise<Finding[]> {
  const path = quantizedFolder();
  const files = await readdir(path, { recursive: true }).catch(() => []);
  if (files.length === 0) return [];
  const sizes = await Promise.all(
    files.map((file) =>
      stat(join(path, file))
        .then(({ size }) => size)
        .catch(() => 0),
    ),
  );
  const total = sizes.reduce((sum, size) => sum + size, 0);
  return [{ name: 'streamed bases', ok: true, value: `${path}, ${bytes(total)}; may be removed, a run makes its own again` }];
}
