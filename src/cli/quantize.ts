import { basename, dirname, resolve } from 'node:path';
import { writeModel } from '../io/model-folder.js';
import { localFolder } from '../io/node/folder.js';
import { byteLengthOf } from '../io/safetensors.js';
import type { QuantizationConfig } from '../models/quantize.js';
import { quantizeModel } from '../models/quantized-model.js';
import { nodeHost } from '../runs/node.js';
import { inTurns } from '../runs/progress.js';
import { openDevice } from '../runs/session.js';
import { LowrankError } from '../util/errors.js';
import { bytes } from '../util/format.js';
import { type Terminal, tensorProgress } from './console.js';
import { interruptible } from './interrupt.js';
import { refuseToReplace, refuseToReplaceSource } from './overwrite.js';
import { contextOf, findModel } from './session.js';

export interface QuantizeOptions {
  json?: boolean;
  device?: string;
  model: string;
  out: string;
  format: QuantizationConfig['kind'];
  double?: boolean;
  blockSize: number;
  maxShardSize: number;
  overwrite?: boolean;
}

/** `lowrank quantize --model M --out DIR`: a model in bitsandbytes' format, one tensor in memory at a time. */
export async function quantizeCommand(terminal: Terminal, options: QuantizeOptions): Promise<void> {
  const { format: kind, double = false, blockSize, maxShardSize: maxShardBytes } = options;
  if (kind === 'int8' && double)
    throw new LowrankError('int8 has one scale a row, which is not quantised', { place: '--double', mend: 'leave it out' });
  const out = resolve(options.out);
  refuseToReplace(out, options);
  const source = await findModel(terminal, options.model);
  refuseToReplaceSource(out, source);
  const backend = await openDevice(options.device, contextOf(terminal));
  const model = quantizeModel(source, backend, { kind, double, blockSize });
  try {
    const { elements, bytes: quantized } = model.quantized;
    const size = model.tensors.reduce((sum, { dtype, shape }) => sum + byteLengthOf(dtype, shape), 0);
    await interruptible(terminal, 'stopping', async (signal) => {
      const tensors = inTurns(model.tensors, tensorProgress(terminal, 'quantising'), signal);
      await localFolder(dirname(out)).create(basename(out), (folder) =>
        writeModel(folder, { ...model, tensors }, source, { maxShardBytes }),
      );
    });
    terminal.clearBar();
    const bits = (8 * quantized) / elements;
    const { peak } = nodeHost.machine();
    terminal.result(
      { out, bytes: size, format: kind, quantized_parameters: elements, bits_per_parameter: bits, peak_rss_gb: peak / 1e9 },
      `quantised    ${out} (${bytes(size)}, ${kind} at ${bits.toFixed(3)} bits per parameter)\nmemory       ${bytes(peak)} peak`,
    );
  } finally {
    model.dispose();
    await backend.close();
    await source.checkpoint.close();
  }
}
