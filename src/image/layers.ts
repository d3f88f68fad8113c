/**
 * What one qcow2 layer holds that another does not, read from their tables alone. It is the proof, before a file is
 * taken away, that nothing is lost with it: QEMU only prints when it could not write its tables at the end, and then
 * reports success.
 */
import { resolve } from 'node:path';
import { type CallOptions, mapImage } from './qemu-img.ts';
import type { QemuTools } from './tools.ts';

/**
 * Bytes of the guest that `layer` has and `over` has not. What lies below the two is not opened.
 * @param layers.zeroes false: zeroes that `layer` has are nothing to `over`, which stands on nothing and reads as zero
 */
export async function bytesOnlyIn(
  tools: QemuTools,
  { layer, over, zeroes }: { layer: string; over: string; zeroes: boolean },
  options: CallOptions = {},
): Promise<number> {
  const image = { ...qcow2(over), backing: { ...qcow2(layer), backing: null } };
  const extents = await mapImage(tools, image, options);
  return extents
    .filter(({ depth, isPresent, isZero }) => depth === 1 && isPresent && (zeroes || !isZero))
    .reduce((sum, { lengthBytes }) => sum + lengthBytes, 0);
}

function qcow2(path: string): object {
  return { driver: 'qcow2', file: { driver: 'file', filename: resolve(path) } };
}
