/**
 * A restored qcow2 carries the bitmap of its point, by the name and with the pattern that the manifest gives, and
 * nothing else in it: what the VM writes to it from now on is what changed since that point. So the next backup of a VM
 * that runs on it is a thin increment onto the point, as after any other way of putting its disks back.
 */
import { messageOf } from '../base/errors.ts';
import type { DiskName } from '../base/ids.ts';
import { seedImageBitmap } from '../image/image-bitmaps.ts';
import type { QemuTools } from '../image/tools.ts';
import type { Manifest } from '../vault/manifest.ts';

/**
 * @param path of a qcow2 that reads as the disk does at its point
 * @param made when it is there; what does not need it is done meanwhile
 * @returns a warning; the image is as good without @throws what `made` does
 */
export async function trackFrom(
  tools: QemuTools,
  point: Manifest,
  { disk, path, made = Promise.resolve() }: { disk: DiskName; path: string; made?: Promise<void> },
): Promise<string[]> {
  const entry = point.disks.find(({ name }) => name === disk);
  // A raw disk had no bitmap while its VM was stopped.
  if (!entry?.bitmap) {
    await made;
    return [];
  }
  const { bitmap, granularityBytes, virtualSizeBytes: sizeBytes } = entry;
  try {
    await seedImageBitmap(tools, { ...bitmap, path, granularityBytes, sizeBytes }, made);
    return [];
  } catch (error) {
    await made;
    const then = 'so the next backup reads all of it and compares';
    return [`${disk} is restored, but without the bitmap of its point, ${then}: ${messageOf(error)}`];
  }
}
