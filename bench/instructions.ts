import { cpuInstructionSets } from '#lowrank/backends/cpu/index.js';
import { LowrankError } from '#lowrank/util/errors.js';

/** An instruction set as the peers name it. */
interface Held {
  /** What holds oneDNN, PyTorch and MKL to the set. */
  environment: Readonly<Record<string, string>>;
  /** llama.cpp's builds of its kernels that use this set and no richer one; of several, it takes the best that the machine runs. Absent: it is not held. */
  llama?: readonly string[];
  /** Whether the set has products of bf16. Without them PyTorch's run in scalar code, and PEFT's best mode is fp32. */
  bf16: boolean;
}

/**
 * Every set of ours. oneDNN and PyTorch obey on every processor. MKL, which makes PyTorch's products of f32, obeys on Intel's alone; on others it takes
 * what it likes (on AMD's AVX2, measured below the set's name as MKL_VERBOSE tells it), so that there the variable changes nothing.
 */
const sets: Readonly<Record<string, Held>> = {
  generic: { environment: environment('SSE41', 'default', 'SSE4_2'), llama: ['x64'], bf16: false },
  avx2: { environment: environment('AVX2', 'avx2', 'AVX2'), llama: ['haswell'], bf16: false },
  avx512: { environment: environment('AVX512_CORE', 'avx512', 'AVX512'), llama: ['skylakex'], bf16: false },
  avx512bf16: { environment: environment('AVX512_CORE_BF16', 'avx512', 'AVX512_E3'), llama: ['zen4', 'cooperlake'], bf16: true },
  amx: { environment: {}, llama: ['sapphirerapids'], bf16: true },
};

function environment(oneDnn: string, pytorch: string, mkl: string): Record<string, string> {
  return { ONEDNN_MAX_CPU_ISA: oneDnn, ATEN_CPU_CAPABILITY: pytorch, MKL_ENABLE_INSTRUCTIONS: mkl };
}

export interface Instructions extends Held {
  /** As LOWRANK_CPU names it. */
  name: string;
}

/**
 * The set that is measured: `wanted`, or else the one that LOWRANK_CPU names, or else the machine's best. Throws where the machine lacks it. From
 * here on every process that this one starts is held to it.
 */
export function holdTo(wanted: string | undefined): Instructions {
  const here = cpuInstructionSets();
  const name = wanted ?? (process.env.LOWRANK_CPU || here[here.length - 1]);
  if (!here.includes(name)) {
    const known = Object.hasOwn(sets, name);
    throw new LowrankError(known ? `this machine has no ${name}` : `there is no instruction set "${name}"`, {
      place: '--isa',
      expected: here.join(', '),
      mend: 'choose one of them, or leave it away for the best',
    });
  }
  const held = sets[name] ?? { environment: {}, bf16: name.includes('bf16') };
  Object.assign(process.env, held.environment, { LOWRANK_CPU: name });
  return { name, ...held };
}
