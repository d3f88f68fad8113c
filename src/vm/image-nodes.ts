/**
 * The images of a stopped VM as nodes of a storage daemon. They are opened read-only and with `force-share`: that
 * takes no lock, so the VM may start at any time, and what it writes then shows in its bitmaps alone.
 */
import type { QmpClient } from '../../qmp/index.ts';
import type { DiskName, RunId } from '../base/ids.ts';
import { type NodeName, readBlockGraph } from './block-graph.ts';
import type { Disk } from './disks.ts';
import { isRunNode, runNode, runOf } from './run-names.ts';

export interface DiskImage {
  readonly name: DiskName;
  /** Absolute. */
  readonly image: string;
  readonly format: string;
  /** A block device of the host, not a file. */
  readonly isDevice: boolean;
  /** Where the running VM had it; empty when it was never seen running. */
  readonly device: string;
}

/** Opens images as they are now; those of an earlier opening must be closed. @returns the disks, in the same order */
export async function openImages(
  client: QmpClient,
  run: RunId,
  images: readonly DiskImage[],
): Promise<Disk[]> {
  const nodes: NodeName[] = [];
  for (const [index, { image, format, isDevice }] of images.entries()) {
    const node = runNode(run, 'access', index);
    await client.execute('blockdev-add', {
      driver: format,
      'node-name': node,
      'read-only': true,
      'force-share': true,
      file: { driver: isDevice ? 'host_device' : 'file', filename: image },
    });
    nodes.push(node);
  }
  const graph = await readBlockGraph(client);
  return images.map(({ name, device, image, format }, i): Disk => {
    const node = nodes[i] as NodeName;
    const found = graph.nodes.get(node);
    return {
      name,
      device,
      root: node,
      node,
      throttled: false,
      format,
      image,
      sizeBytes: found?.sizeBytes ?? 0,
      allocatedBytes: graph.chainAllocatedBytes(node),
      keepsBitmaps: format === 'qcow2' && found?.compat !== '0.10',
      internalSnapshots: found?.snapshots ?? 0,
      bitmaps: found?.bitmaps ?? [],
    };
  });
}

/** Closes what of a run's images is open. Nothing may read them any more. */
export async function closeImages(client: QmpClient, run: RunId): Promise<void> {
  for (const node of (await readBlockGraph(client)).nodes.keys()) {
    if (runOf(node) !== run || !isRunNode(node, 'access')) continue;
    await client.execute('blockdev-del', { 'node-name': node });
  }
}

/** Opens the image of a pattern. */
export async function openPattern(client: QmpClient, node: NodeName, path: string): Promise<void> {
  await client.execute('blockdev-add', {
    driver: 'qcow2',
    'node-name': node,
    file: { driver: 'file', filename: path },
  });
}
