/**
 * Scratch images: local files that receive the guest's old data while a run reads. The VM makes them itself with
 * `blockdev-create`, so they are its own whatever user it runs as.
 */
import { followJob, type QmpClient } from '../../qmp/index.ts';
import type { RunId } from '../base/ids.ts';
import { createJob, runNode } from './run-names.ts';

/** Creates and opens one scratch image, as the run's node of that role. */
export async function addScratch(
  client: QmpClient,
  { run, index, path, sizeBytes }: { run: RunId; index: number; path: string; sizeBytes: number },
): Promise<void> {
  const file = runNode(run, 'scratchFile', index);
  const node = runNode(run, 'scratch', index);
  const create = async (options: object) => {
    const job = createJob(run, index);
    const listener = client.listen((event) => event.name === 'JOB_STATUS_CHANGE' && event.data['id'] === job);
    try {
      await client.execute('blockdev-create', { 'job-id': job, options });
      await followJob(client, listener, job, { timeoutMs: 20_000 });
    } finally {
      listener.close();
    }
  };
  await create({ driver: 'file', filename: path, size: 0 });
  // Old data is worth nothing after a crash: no flush of the scratch image ever needs to wait for the disk. Both nodes
  // say so, since a flush passes by the upper one; and each new table of the image is flushed, in a guest's write.
  const cache = { direct: false, 'no-flush': true };
  await client.execute('blockdev-add', {
    driver: 'file',
    'node-name': file,
    filename: path,
    discard: 'unmap',
    cache,
  });
  await create({ driver: 'qcow2', file, size: sizeBytes });
  await client.execute('blockdev-add', {
    driver: 'qcow2',
    'node-name': node,
    file,
    discard: 'unmap',
    cache,
  });
}
