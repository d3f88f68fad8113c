/**
 * What one qcow2 layer holds that another does not, read from their tables alone. It is the proof, before a file is
 * taken away, that nothing is lost with it: QEMU only prints when it could not write its tables at the end, and then
 * reports success.
 */
import { resolve } from 'node:path';
import { type CallOptions, type Extent, mapImage } from './qemu-img.ts';
import type { QemuTools } from './tools.ts';

interface Layers {
  readonly layer: string;
  readonly over: string;
}

/** Bytes of the guest that `layer` has and `over` has not. What lies below the two is not opened. */
export async function bytesOnlyIn(
  tools: QemuTools,
  layers: Layers,
  options: CallOptions = {},
): Promise<number> {
  return bytesOf(await onlyIn(tools, layers, options));
}

/**
 * The same where `over` stays on what it stands on, in the place of `layer`. Zeroes that it reads from there anyway are
 * not lost: QEMU does not always write them (m: `qemu-img commit` of 7.2 does, of 11.1 does not).
 */
export async function bytesLostWith(
  tools: QemuTools,
  layers: Layers,
  options: CallOptions = {},
): Promise<number> {
  const only = await onlyIn(tools, layers, options);
  const zeroes = only.filter(({ isZero }) => isZero);
  const lost = bytesOf(only) - bytesOf(zeroes);
  if (zeroes.length === 0) return lost;
  const read = await mapImage(tools, qcow2(layers.over), options);
  return (
    lost +
    bytesOf(zeroes) -
    commonBytes(
      zeroes,
      read.filter(({ isZero }) => isZero),
    )
  );
}

async function onlyIn(tools: QemuTools, { layer, over }: Layers, options: CallOptions): Promise<Extent[]> {
  const image = { ...qcow2(over), backing: { ...qcow2(layer), backing: null } };
  const extents = await mapImage(tools, image, options);
  return extents.filter(({ depth, isPresent }) => depth === 1 && isPresent);
}

function bytesOf(extents: readonly Extent[]): number {
  return extents.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0);
}

/** Pure. Of two lists in order, each without overlaps. */
export function commonBytes(a: readonly Extent[], b: readonly Extent[]): number {
  let sum = 0;
  for (let [i, j] = [0, 0]; ; ) {
    const [one, other] = [a[i], b[j]];
    if (one === undefined || other === undefined) return sum;
    const [oneEnd, otherEnd] = [endOf(one), endOf(other)];
    sum += Math.max(0, Math.min(oneEnd, otherEnd) - Math.max(one.startBytes, other.startBytes));
    if (oneEnd <= otherEnd) i += 1;
    else j += 1;
  }
}

function endOf({ startBytes, lengthBytes }: Extent): number {
  return startBytes + lengthBytes;
}

function qcow2(path: string): object {
  return { driver: 'qcow2', file: { driver: 'file', filename: resolve(path) } };
}
