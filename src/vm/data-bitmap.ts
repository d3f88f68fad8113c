/**
 * A bitmap that says where a disk holds data, so that a copy passes over its holes. It is coarse: one write marks a
 * whole granule, whatever its size, and writes are how chosen bits are set (bitmaps.ts).
 */
import type { QmpClient } from '../../qmp/index.ts';
import { QmpvaultError } from '../base/errors.ts';
import { GiB, MiB } from '../base/units.ts';
import type { BitmapRef } from './bitmaps.ts';
import { type NodeName, readBlockGraph } from './block-graph.ts';

const NAME = 'data';
const MOST_GRANULES = 1024;

/** A power of two, as a bitmap wants it, and not above its limit; not below what QEMU copies at once. */
export function granuleBytesOf(sizeBytes: number): number {
  const wanted = Math.max(MiB, sizeBytes / MOST_GRANULES);
  return Math.min(2 * GiB, 2 ** Math.ceil(Math.log2(wanted)));
}

/**
 * @param canvas a null-co node of the disk's size, which gets the bitmap
 * @param granules where those begin that hold data
 * @throws vm-unfit where the bits are not set: without them data would be missing
 */
export async function drawData(
  client: QmpClient,
  { canvas, granuleBytes, granules }: { canvas: NodeName; granuleBytes: number; granules: readonly number[] },
): Promise<BitmapRef> {
  const node = canvas;
  await client.execute('block-dirty-bitmap-add', { node, name: NAME, granularity: granuleBytes });
  await Promise.all(
    granules.map((start) =>
      client.execute('human-monitor-command', {
        'command-line': `qemu-io ${node} "write -q -z ${start} 512"`,
      }),
    ),
  );
  const { nodes } = await readBlockGraph(client);
  const marked = nodes.get(node)?.bitmaps.find(({ name }) => name === NAME)?.countBytes;
  if (marked === granules.length * granuleBytes) return { node, name: NAME };
  throw new QmpvaultError(
    'vm-unfit',
    "this QEMU's qemu-io monitor command cannot mark where a disk holds data",
  );
}
