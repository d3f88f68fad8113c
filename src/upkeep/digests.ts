import { join } from 'node:path';
import { sha256File } from '../vault/digest.ts';
import type { Lease } from '../vault/lease.ts';
import type { Manifest, ManifestDisk } from '../vault/manifest.ts';
import type { VmFolder } from '../vault/vm-folder.ts';
import type { UpkeepControl } from './engine.ts';
import { WorkMeter } from './work.ts';

/** Reads the files back whose digests are pending, and writes them down. @throws cancelled: they stay pending then */
export async function digestPending(
  folder: VmFolder,
  lease: Lease,
  point: Manifest,
  { signal, onWork }: UpkeepControl,
): Promise<Manifest> {
  if (point.disks.every(({ sha256 }) => sha256 !== null)) return point;
  const pending = point.disks.filter(({ sha256 }) => sha256 === null);
  const totalBytes = pending.reduce((sum, { storedBytes }) => sum + storedBytes, 0);
  const meter = new WorkMeter(onWork, { phase: 'digesting', name: point.id, totalBytes });
  const onBytes = (bytes: number) => meter.finish(bytes);
  const disks: ManifestDisk[] = [];
  for (const disk of point.disks) {
    const path = join(folder.path, point.id, disk.file);
    disks.push({ ...disk, sha256: disk.sha256 ?? (await sha256File(path, { signal, onBytes })) });
  }
  const digested = { ...point, disks };
  await folder.replaceManifest(digested, lease);
  return digested;
}
