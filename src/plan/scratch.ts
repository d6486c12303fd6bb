import type { TensorView } from '../core/backend.js';
import type { OpName } from '../core/ops.table.js';

/** Tiles and blocks of native/kernels/gemm.cpp, attention.h and lora_gradients.cpp on AVX-512: the others need about as much. */
const [tileRows, tileColumns, rowBlock, depth, partialElements, span] = [12, 32, 2048, 4096, 2 ** 22, 96];
const [chunkRows, mostChunks, taskColumns] = [512, 8, 1024];
const hugePage = 2 ** 21;

const upTo = (n: number, multiple: number) => Math.ceil(n / multiple) * multiple;

/** What of native/kernels/pool.h's `Slot` takes memory that counts. */
type Slot = 'shared' | 'own' | 'down' | 'sums' | 'branch_sums';

/** The scratch memory that kernels keep between calls: of each slot and thread as much as the largest call asked for. */
export class Scratch {
  /** Slots of the first thread, and of each of the others. */
  private readonly first = new Map<Slot, number>();
  private readonly others = new Map<Slot, number>();

  /** What a call of an op needs; the operands by name. */
  call(op: OpName, operands: Readonly<Record<string, TensorView | undefined>>): void {
    const { a, b, x, dy, weight, A, out, h, q, k, dh } = operands;
    // A group may have all rows.
    if ((op === 'matmul' || op === 'groupMatmul') && a && b && out)
      this.product(out.shape[0], out.shape[1], (a.shape[0] * a.shape[1]) / out.shape[0]);
    if (op === 'loraLinear' && x && weight && A) this.product(x.shape[0], weight.shape[0], weight.shape[1], A.shape[0]);
    if (op === 'loraLinearBackward' && dy && weight && A) this.product(dy.shape[0], weight.shape[1], weight.shape[0], A.shape[0]);
    if (op === 'loraGradients' && x && h && dy && dh) {
      const chunks = Math.min(mostChunks, Math.ceil(x.shape[0] / chunkRows));
      const sums = (columns: number) => Math.ceil(columns / taskColumns) * (taskColumns + tileColumns);
      this.need('own', (upTo(h.shape[1], 8) + tileColumns) * 128, true);
      this.need('sums', chunks * upTo(h.shape[1], 8) * (sums(x.shape[1]) + sums(dy.shape[1])) * 4);
    }
    if ((op === 'attention' || op === 'attentionBackward') && q && k) this.attention(q, k, op === 'attentionBackward');
  }

  /** [m,k]·[k,n] of bf16, perhaps with a low-rank branch. */
  private product(m: number, n: number, k: number, rank = 0): void {
    const padded = upTo(n, tileColumns);
    const rows = k > depth ? Math.max(tileRows, Math.min(rowBlock, partialElements / padded)) : rowBlock;
    const panel = upTo(Math.min(m, rows), tileRows);
    const steps = Math.ceil((Math.min(k, depth) + rank) / 2);
    this.need('shared', panel * steps * 4);
    this.need('own', tileColumns * steps * 4, true);
    if (k > depth) this.need('sums', panel * padded * 4);
    if (rank > 0) this.need('down', (rank + tileColumns) * steps * 4);
    if (rank > 0) this.need('branch_sums', panel * (rank + tileColumns) * 4);
  }

  private attention(q: TensorView, k: TensorView, backward: boolean): void {
    const keys = upTo(k.shape[0], span);
    const packed = keys * k.shape[1] * 2;
    // Backward sums dk and dv in f32 for each of about four tasks a thread.
    this.need(
      'shared',
      backward ? 3 * packed + 2 * keys * k.shape[1] * 4 * Math.max(1, Math.ceil(q.shape[1] / k.shape[1] / 2)) : 2 * packed,
    );
    this.need('own', tileRows * keys * 6 + span * span * 8, true);
  }

  private need(slot: Slot, bytes: number, everywhere = false): void {
    // As native/kernels/pool.cpp does.
    const rounded = bytes < hugePage / 16 ? bytes : upTo(bytes, hugePage);
    this.first.set(slot, Math.max(this.first.get(slot) ?? 0, rounded));
    if (everywhere) this.others.set(slot, Math.max(this.others.get(slot) ?? 0, rounded));
  }

  bytes(threads: number): number {
    const sum = (slots: Map<Slot, number>) => [...slots.values()].reduce((total, n) => total + n, 0);
    return sum(this.first) + (threads - 1) * sum(this.others);
  }
}
