/**
 * Scratch images: local files that receive the guest's old data while a run reads. They are made outside of the VM: while
 * a `blockdev-create` job makes one, QEMU 7.2 aborts when anybody asks for its nodes (decisions 12, 76).
 */
import type { QmpClient } from '../../qmp/index.ts';
import type { RunId } from '../base/ids.ts';
import { runNode } from './run-names.ts';

/** Opens one scratch image, as the run's node of that role. */
export async function addScratch(
  client: QmpClient,
  { run, index, path }: { run: RunId; index: number; path: string },
): Promise<void> {
  // Old data is worth nothing after a crash: no flush of the scratch image ever needs to wait for the disk. Both nodes
  // say so, since a flush passes by the upper one; and each new table of the image is flushed, in a guest's write.
  const cache = { direct: false, 'no-flush': true };
  await client.execute('blockdev-add', {
    driver: 'qcow2',
    'node-name': runNode(run, 'scratch', index),
    file: { driver: 'file', filename: path, discard: 'unmap', cache },
    discard: 'unmap',
    cache,
  });
}
