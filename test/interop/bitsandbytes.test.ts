import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { openCpuBackend } from '../../src/backends/cpu/index.js';
import { ReferenceBackend } from '../../src/backends/reference/index.js';
import type { Backend } from '../../src/core/backend.js';
import { empty, fromArray } from '../../src/core/tensor.js';
import { encodeQuantized } from '../../src/io/bitsandbytes.js';
import type { Checkpoint } from '../../src/io/checkpoint.js';
import { writeModel } from '../../src/io/model-folder.js';
import { localFolder } from '../../src/io/node/folder.js';
import { openFile } from '../../src/io/node.js';
import { encodeSafetensors, readSafetensors } from '../../src/io/safetensors.js';
import { partsOf, type QuantizationConfig, Quantizer } from '../../src/models/quantize.js';
import { quantizeModel } from '../../src/models/quantized-model.js';
import { nestedBlockSize } from '../../src/quant/four-bit.js';
import { Random } from '../../src/util/philox.js';
import { askPeers, distance, json, logitsOf, openBase, relativeError, temporaryFolder, tensorsOf } from './peers.js';

const folder = temporaryFolder();
const at = (...names: string[]) => join(folder.path, ...names);

function normal(n: number, size = 1): Float32Array {
  const random = new Random(n, 3);
  return Float32Array.from({ length: n }, () => size * random.normal());
}

/** Matrices [rows, columns]: what weights look like, and what they should not. The largest has more scales than are added up in one go. */
const matrices: Record<string, { shape: [number, number]; values: Float32Array }> = {
  normal: { shape: [96, 200], values: normal(96 * 200, 0.02) },
  constant: { shape: [10, 64], values: new Float32Array(640).fill(0.37) },
  zero: { shape: [6, 64], values: new Float32Array(384) },
  'zeros beside': { shape: [6, 128], values: normal(768).fill(0, 100, 300) },
  tiny: { shape: [5, 100], values: normal(500, 1e-30) },
  subnormal: { shape: [5, 64], values: normal(320, 1e-40) },
  huge: { shape: [5, 100], values: normal(500, 1e36) },
  odd: { shape: [37, 51], values: normal(37 * 51) },
  single: { shape: [1, 1], values: Float32Array.of(-3) },
  large: { shape: [1100, 2048], values: normal(1100 * 2048, 0.05) },
};

const cases = [32, 64, 128, 4096].flatMap((blockSize) =>
  (['nf4', 'fp4'] as const).flatMap((kind) => [false, true].map((double): QuantizationConfig => ({ kind, blockSize, double }))),
);

const shape = {
  hidden_size: 128,
  intermediate_size: 320,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  vocab_size: 160,
  max_position_embeddings: 64,
  initializer_range: 0.2,
};
const examples = [
  [1, 5, 9, 130, 77, 3, 3, 42, 8, 101, 64],
  [159, 0, 17],
];
const formats: QuantizationConfig[] = [
  { kind: 'nf4', blockSize: 64, double: true },
  { kind: 'nf4', blockSize: 64, double: false },
  { kind: 'fp4', blockSize: 64, double: true },
  { kind: 'int8', blockSize: 64, double: false },
];
const nameOf = ({ kind, double }: QuantizationConfig) => `${kind}${double ? '-double' : ''}`;

let backend: Backend;
let theirs: Checkpoint;

beforeAll(async () => {
  backend = await openCpuBackend({ threads: 2 });
  const entries = Object.entries(matrices).map(([name, { shape, values }]) => ({
    name,
    dtype: 'F32',
    shape,
    data: async () => new Uint8Array(values.buffer),
  }));
  await localFolder(folder.path).write('matrices.safetensors', encodeSafetensors(entries));
  const asked = cases.map(({ kind, blockSize, double }) => ({ quant_type: kind, blocksize: blockSize, nested: double }));
  await askPeers(folder.path, [
    { do: 'quantize', tensors: at('matrices.safetensors'), cases: asked, out: at('quantized.safetensors') },
    { do: 'write_base', folder: at('base'), config: shape },
  ]);
  theirs = await readSafetensors(await openFile(at('quantized.safetensors')));
  for (const format of formats) {
    mkdirSync(at(`ours-${nameOf(format)}`));
    const base = await openBase(at('base'));
    const source = {
      name: 'base',
      config: json(at('base', 'config.json')),
      checkpoint: base.checkpoint,
      identity: '',
      tokenizer: { tokenizerJson: {}, tokenizerConfig: {} },
    };
    const model = quantizeModel(source, base.backend, format);
    await writeModel(localFolder(at(`ours-${nameOf(format)}`)), model, source);
    model.dispose();
    await base.close();
  }
  await askPeers(
    folder.path,
    formats.flatMap((format) => {
      const name = nameOf(format);
      const { kind, double: nested } = format;
      return [
        {
          do: 'write_quantized',
          base: at('base'),
          folder: at(`theirs-${name}`),
          kind,
          nested,
          examples,
          out: at(`theirs-${name}.safetensors`),
        },
        { do: 'read_quantized', folder: at(`ours-${name}`), examples, out: at(`ours-${name}.safetensors`) },
      ];
    }),
  );
});
afterAll(async () => {
  await theirs.close();
  await backend.close();
  folder.remove();
});

const peersBytes = (name: string) => theirs.tensors.get(name)!.read();

describe('codes and scales equal bitsandbytes’', () => {
  test.each(Object.keys(matrices))('%s', async (name) => {
    const { shape, values } = matrices[name];
    const devices = values.length < 1e5 ? [backend, new ReferenceBackend()] : [backend];
    for (const device of devices) {
      const x = fromArray(device, values, shape);
      for (const [i, config] of cases.entries()) {
        const quantizer = new Quantizer(device, config);
        const weight = await quantizer.quantize(x);
        const label = `${device.name} ${nameOf(config)} ${config.blockSize}`;
        const bytes = async () => ({
          codes: await weight.read(),
          absmax: await weight.quantization!.absmax.read(),
          constants: await weight.quantization!.constants!.toFloat32(),
        });
        for (const { name: part, data } of encodeQuantized({ name: '', shape, ...config, bytes }, nestedBlockSize)) {
          const got = Buffer.from(await data());
          const want = Buffer.from(await peersBytes(`${name}.${i}${part}`));
          if (part.includes('quant_state'))
            expect(JSON.parse(got.toString()), label).toEqual({ ...JSON.parse(want.toString()), dtype: 'bfloat16' });
          else expect(got.equals(want), `${label} ${part}`).toBe(true);
        }
        const numbers = empty(device, shape, 'f32');
        device.run('dequantize', { weight, ...weight.quantization! }, { out: numbers }, {});
        const want = new Float32Array((await peersBytes(`${name}.${i}.numbers`)).slice().buffer);
        const got = await numbers.toFloat32();
        // Its products of subnormal numbers are not those of its own tables.
        if (name !== 'subnormal') expect(got.length === want.length && got.every((number, k) => number === want[k]), label).toBe(true);
        for (const tensor of [...partsOf(weight), numbers]) tensor.dispose();
        quantizer.dispose();
      }
      x.dispose();
    }
  });
});

test.each(['normal', 'constant', 'zeros beside', 'odd', 'large'])('rows of int8: %s', async (name) => {
  const { shape, values } = matrices[name];
  const x = fromArray(backend, values, shape);
  const quantizer = new Quantizer(backend, { kind: 'int8', blockSize: 64, double: false });
  const weight = await quantizer.quantize(x);
  expect(Buffer.from(await weight.read()).equals(Buffer.from(await peersBytes(`${name}.int8`)))).toBe(true);
  expect(Buffer.from(await weight.quantization!.absmax.read()).equals(Buffer.from(await peersBytes(`${name}.SCB`)))).toBe(true);
  for (const tensor of [...partsOf(weight), x]) tensor.dispose();
  quantizer.dispose();
});

describe.each(formats.map((format) => [nameOf(format), format] as const))('%s', (name, format) => {
  const logits = (file: string) => tensorsOf(at(file));

  test('transformers reads what we write as what it would have written', async () => {
    const [read, written] = [await logits(`ours-${name}.safetensors`), await logits(`theirs-${name}.safetensors`)];
    for (const key of written.keys()) expect(read.get(key)).toEqual(written.get(key));
  });

  test('what transformers writes is read as what is quantised here, and both answer as there', async () => {
    const [read, made] = [await openBase(at(`theirs-${name}`)), await openBase(at('base'), format)];
    const expected = await logits(`theirs-${name}.safetensors`);
    for (const [i, ids] of examples.entries()) {
      const ours = await logitsOf(read.model, ids);
      expect(ours).toEqual(await logitsOf(made.model, ids));
      // In 8 bits they quantise the activations, too.
      if (format.kind === 'int8') expect(relativeError(ours, expected.get(`logits.${i}`)!)).toBeLessThan(0.05);
      else expect(distance(ours, expected.get(`logits.${i}`)!)).toBeLessThan(1e-5);
    }
    await read.close();
    await made.close();
  });
});
