import { cpuInstructionSets } from '#lowrank/backends/cpu/index.js';
import { LowrankError } from '#lowrank/util/errors.js';

/** An instruction set as the peers name it. */
interface Held {
  /** What holds oneDNN, PyTorch and MKL to the set. */
  environment: Readonly<Record<string, string>>;
  /**
   * llama.cpp's builds of its kernels that use this set and no richer one; of several, it takes the best that the machine runs. Absent: it
   * is not held.
   */
  llama?: readonly string[];
  /**
   * Whether the set has products of bf16. Without them PyTorch's are slower than its f32 ones, which take MKL's: 19 against 95 GFLOP/s on a
   * core held to AVX2, 37 against 95 to AVX-512 (512×576→1536, AMD EPYC). So the peer's best mode is fp32 there.
   */
  bf16: boolean;
}

/**
 * Every set of ours. oneDNN (PyTorch's products of bf16) and PyTorch's own kernels obey on every processor. MKL (its products of f32) obeys
 * on Intel's alone, as its guide says; on an AMD EPYC with AVX-512 sampled instructions were AVX2's with and without the variable.
 */
const sets: Readonly<Record<string, Held>> = {
  generic: { environment: peers('SSE41', 'default', 'SSE4_2'), llama: ['x64'], bf16: false },
  avx2: { environment: peers('AVX2', 'avx2', 'AVX2'), llama: ['haswell'], bf16: false },
  avx512: { environment: peers('AVX512_CORE', 'avx512', 'AVX512'), llama: ['skylakex'], bf16: false },
  avx512bf16: { environment: peers('AVX512_CORE_BF16', 'avx512', 'AVX512_E3'), llama: ['zen4', 'cooperlake'], bf16: true },
  amx: { environment: {}, llama: ['sapphirerapids'], bf16: true },
};

function peers(oneDnn: string, pytorch: string, mkl: string): Record<string, string> {
  return { ONEDNN_MAX_CPU_ISA: oneDnn, ATEN_CPU_CAPABILITY: pytorch, MKL_ENABLE_INSTRUCTIONS: mkl };
}

export interface Instructions extends Held {
  /** As LOWRANK_CPU names it. */
  name: string;
}

/**
 * The set that is measured: `wanted`, or else the one that LOWRANK_CPU names, or else the last of `here`, this machine's. Throws where it
 * is none of them. From here on every process that takes over `environment` is held to it.
 */
export function holdTo(wanted: string | undefined, here = cpuInstructionSets(), environment = process.env): Instructions {
  const name = wanted ?? (environment.LOWRANK_CPU || here[here.length - 1]);
  if (!here.includes(name)) {
    throw new LowrankError(Object.hasOwn(sets, name) ? `this machine has no ${name}` : `there is no instruction set "${name}"`, {
      place: wanted === undefined ? 'LOWRANK_CPU' : '--isa',
      expected: here.join(', '),
      mend: 'choose one of them, or leave it away for the best',
    });
  }
  const held = sets[name] ?? { environment: {}, bf16: name.includes('bf16') };
  Object.assign(environment, held.environment, { LOWRANK_CPU: name });
  return { name, ...held };
}
