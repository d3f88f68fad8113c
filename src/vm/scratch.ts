/**
 * Scratch images: local files that receive the guest's old data while a run reads. They are made outside of the VM: while
 * a `blockdev-create` job makes one, QEMU 7.2 aborts when anybody asks for its nodes (decision 76).
 */
import type { QmpClient } from '../../qmp/index.ts';
import type { RunId } from '../base/ids.ts';
import { runNode } from './run-names.ts';

/** Opens one scratch image, as the run's node of that role. */
export async function addScratch(
  client: QmpClient,
  { run, index, path }: { run: RunId; index: number; path: string },
): Promise<void> {
  const file = runNode(run, 'scratchFile', index);
  const node = runNode(run, 'scratch', index);
  // Old data is worth nothing after a crash: no flush of the scratch image ever needs to wait for the disk. Both nodes
  // say so, since a flush passes by the upper one; and each new table of the image is flushed, in a guest's write.
  const options = { discard: 'unmap', cache: { direct: false, 'no-flush': true } };
  await client.execute('blockdev-add', { driver: 'file', 'node-name': file, filename: path, ...options });
  await client.execute('blockdev-add', { driver: 'qcow2', 'node-name': node, file, ...options });
}
