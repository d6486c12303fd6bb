import type { DType } from '../../core/dtype.js';
import type { Operand } from '../../core/operand.js';
import type { GpuBlock } from './memory.js';
import { loader, perWord, prelude, storer } from './wgsl.js';

export type GpuOperand = Operand<GpuBlock>;

/** Values that are part of a kernel's text. */
export type Constants = Readonly<Record<string, number | string | boolean>>;

/**
 * A kernel: WGSL text from constants and the operands' dtypes. The text sees `p.NAME` for each parameter, the functions of wgsl.ts for each
 * operand, and in `main` the variables `lid` (the thread in its workgroup), `group` (workgroup_id), `groups` (num_workgroups) and `thread`
 * (its place in a grid made by `grid`).
 */
export interface Kernel<C extends Constants = Constants> {
  readonly name: string;
  /** Threads of a workgroup. */
  readonly size: number | ((constants: C) => number);
  /** Functions and workgroup variables. `has` says which operands are there, and their dtype. */
  globals?(constants: C, has: Operands): string;
  main(constants: C, has: Operands): string;
}

export type Operands = Readonly<Record<string, DType | undefined>>;

/** One use of a kernel. */
export interface Dispatch<C extends Constants = Constants> {
  readonly kernel: Kernel<C>;
  readonly constants?: C;
  readonly reads?: Readonly<Record<string, GpuOperand | undefined>>;
  /** Operands that are written, and may be read. */
  readonly writes: Readonly<Record<string, GpuOperand | undefined>>;
  /** Whole numbers from 0 on. */
  readonly integers?: Readonly<Record<string, number>>;
  /** Numbers. */
  readonly numbers?: Readonly<Record<string, number>>;
  readonly groups: readonly [x: number, y: number, z: number];
}

/** A buffer as a dispatch binds it, with the place from which on. */
export interface Binding {
  readonly block: GpuBlock;
  readonly written: boolean;
  /** In bytes, a multiple of the device's alignment. */
  from: number;
  to: number;
}

/** What of a dispatch its pipeline depends on, and what goes into its parameters. */
export interface Prepared {
  readonly key: string;
  readonly bindings: readonly Binding[];
  readonly parameters: readonly { readonly name: string; readonly value: number; readonly float: boolean }[];
  text(): string;
}

/** Offsets of bindings are multiples of this on every device. */
const alignment = 256;

/** Gathers a dispatch's buffers, each bound once however many operands lie in it: WebGPU allows no second binding beside a written one. */
export function prepare<C extends Constants>(dispatch: Dispatch<C>): Prepared {
  const { kernel, reads = {}, writes, integers = {}, numbers = {} } = dispatch;
  const constants = dispatch.constants ?? ({} as C);
  const present = [...entries(reads, false), ...entries(writes, true)];
  const bindings: Binding[] = [];
  const slots = present.map(({ operand, written }) => {
    let slot = bindings.findIndex(({ block }) => block === operand.buffer);
    if (slot < 0) slot = bindings.push({ block: operand.buffer, written: false, from: Number.POSITIVE_INFINITY, to: 0 }) - 1;
    const binding = bindings[slot];
    bindings[slot] = {
      block: binding.block,
      written: binding.written || written,
      from: Math.min(binding.from, Math.floor(operand.offset / alignment) * alignment),
      to: Math.max(binding.to, operand.offset + operand.bytes),
    };
    return slot;
  });
  const bases = present.map(({ name, operand }, i) => ({
    name: `${name}_0`,
    value: ((operand.offset - bindings[slots[i]].from) / 4) * perWord[operand.dtype],
    float: false,
  }));
  const parameters = [
    ...bases,
    ...Object.entries(integers).map(([name, value]) => ({ name, value, float: false })),
    ...Object.entries(numbers).map(([name, value]) => ({ name, value, float: true })),
  ];
  const signature = present.map(({ name, operand, written }, i) => `${name}${written ? '+' : ''}:${operand.dtype}@${slots[i]}`);
  const names = parameters.slice(bases.length).map(({ name }) => name);
  const written = bindings.map((binding) => Number(binding.written)).join('');
  const key = `${kernel.name} ${JSON.stringify(constants)} ${signature} ${names} ${written}`;
  const text = () => {
    const has = Object.fromEntries(present.map(({ name, operand }) => [name, operand.dtype]));
    const declared = bindings.map(
      ({ written }, slot) => `@group(0) @binding(${slot + 1}) var<storage, ${written ? 'read_write' : 'read'}> m${slot}: array<u32>;\n`,
    );
    const functions = present.map(({ name, operand, written }, i) => {
      const base = `p.${name}_0`;
      return loader(name, operand.dtype, `m${slots[i]}`, base) + (written ? storer(name, operand.dtype, `m${slots[i]}`, base) : '');
    });
    const fields = parameters.map(({ name, float }) => `${name}: ${float ? 'f32' : 'u32'},`).join(' ');
    const size = typeof kernel.size === 'number' ? kernel.size : kernel.size(constants);
    return `struct Parameters { ${fields} }
@group(0) @binding(0) var<uniform> p: Parameters;
${declared.join('')}${prelude}${functions.join('')}${kernel.globals?.(constants, has) ?? ''}
@compute @workgroup_size(${size})
fn main(@builtin(local_invocation_index) lid: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let thread = (group.y * groups.x + group.x) * ${size}u + lid;
${kernel.main(constants, has)}
}
`;
  };
  return { key, bindings, parameters, text };
}

function* entries(operands: Readonly<Record<string, GpuOperand | undefined>>, written: boolean) {
  for (const [name, operand] of Object.entries(operands)) if (operand) yield { name, operand, written };
}

/** Workgroups a side at most. */
const side = 65535;

/** Workgroups for `n` pieces of work of `size` each, in two dimensions where one has not enough. */
export function grid(n: number, size: number): [number, number, number] {
  const count = Math.ceil(n / size);
  const rows = Math.ceil(count / side);
  return [rows > 0 ? Math.ceil(count / rows) : 0, rows, 1];
}
