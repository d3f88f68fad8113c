/**
 * The holes of a sparse disk, which a full need not visit. `sync: full` writes a zero for every MiB of them, which takes
 * 10 µs and leaves 128 KiB of tables per GiB (m: an empty disk of 2 TiB 28 s and 257 MiB). Where the disk has a backing
 * file it is worse: a snapshot-access node does not tell holes there from data, so zeroes are read and sent
 * (m: 50 s for 100 GiB). `sync: top` does not help, since on a snapshot-access node it passes over nothing.
 *
 * So the disk itself is asked, over NBD and shortly before the moment. What is written since then is in the new bitmap,
 * which was made before: that and the data found together are no less than all data at the moment.
 */
import { codeOf } from '../base/errors.ts';
import { GiB } from '../base/units.ts';
import { type DataRange, readDataRanges } from '../image/nbd-data.ts';
import type { BitmapRef } from '../vm/bitmaps.ts';
import { drawData, granuleBytesOf } from '../vm/data-bitmap.ts';
import { runNode } from '../vm/run-names.ts';
import { exportNode, startNbdServer, stopNbdServer } from '../vm/snapshot.ts';
import { vmNbdSocket } from './run-folders.ts';
import type { RunDisk, RunSite } from './site.ts';

/** Fewer bytes of holes are visited in less time than they are found. */
const WORTH_BYTES = 2 * GiB;
/** A disk in very many pieces is copied whole instead. */
const READ_MS = 5_000;

/**
 * For sparse disks of which all is to be copied: by index, the bitmaps that together mark what has to be.
 * The new bitmaps are there, the moment is still to come.
 */
export async function findData(site: RunSite): Promise<ReadonlyMap<number, readonly BitmapRef[]>> {
  const { vm, run } = site;
  const found = new Map<number, readonly BitmapRef[]>();
  for (const [{ index, disk, bitmap }, ranges] of await rangesOf(await sparseDisks(site), site)) {
    const granuleBytes = granuleBytesOf(disk.sizeBytes);
    const granules = granulesWith(ranges, granuleBytes);
    const data = await drawData(vm.client, {
      canvas: runNode(run, 'pattern', index),
      granuleBytes,
      granules,
    });
    found.set(index, [data, bitmap]);
  }
  return found;
}

async function sparseDisks({ vm, disks }: RunSite): Promise<RunDisk[]> {
  // Then the VM's one NBD server serves what is to be compared.
  if (disks.some(({ plan }) => plan.how === 'resync')) return [];
  const sparse: RunDisk[] = [];
  for (const runDisk of disks) {
    const { disk, plan } = runDisk;
    const isSparse = disk.sizeBytes - disk.allocatedBytes >= WORTH_BYTES;
    if (plan.how === 'full' && isSparse && (await vm.whyNoExport(disk)) === null) sparse.push(runDisk);
  }
  return sparse;
}

/** Without the disks that cannot be asked, or not in time. After an error unwinding stops the server. */
async function rangesOf(
  sparse: readonly RunDisk[],
  { vm, run, folders, engine, signal }: RunSite,
): Promise<Map<RunDisk, DataRange[]>> {
  const found = new Map<RunDisk, DataRange[]>();
  if (sparse.length === 0) return found;
  const socket = vmNbdSocket(folders);
  try {
    await startNbdServer(vm.client, socket);
  } catch (error) {
    if (codeOf(error) !== 'vm-nbd-taken') throw error;
    return found;
  }
  await engine.reachStep('holes');
  for (const runDisk of sparse) {
    const { index, disk } = runDisk;
    await exportNode(vm.client, { run, index, node: disk.root, name: disk.name });
    try {
      const source = { socket, exportName: disk.name };
      found.set(runDisk, await readDataRanges(source, { signal, timeoutMs: READ_MS }));
    } catch (error) {
      if (codeOf(error) !== 'image-tool-failed') throw error;
      engine.log.info({ disk: disk.name, error }, 'its holes are not known: it is copied whole');
    }
  }
  await stopNbdServer(vm.client);
  return found;
}

function granulesWith(data: readonly DataRange[], granuleBytes: number): number[] {
  const granules = new Set<number>();
  for (const { startBytes, endBytes } of data) {
    const first = startBytes - (startBytes % granuleBytes);
    for (let granule = first; granule < endBytes; granule += granuleBytes) granules.add(granule);
  }
  return [...granules];
}
