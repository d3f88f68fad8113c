/**
 * Room for the guest's old data. Scratch on the filesystem that holds the VM's images could fill it up under the
 * guest: there the run begins only if all of it fits, and everywhere it ends before the filesystem is full.
 */
import { readdir, stat, statfs } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { QmpvaultError } from '../base/errors.ts';
import { NODE_PREFIX } from '../base/ids.ts';
import { formatBytes } from '../base/units.ts';
import type { Disk } from '../vm/disks.ts';

/** This share of the filesystem stays free. */
const RESERVE = 0.1;

/** What a snapshot saves is at most what the disk has allocated: a hole is saved as a hole. */
function mostBytes(disks: readonly Disk[]): number {
  return disks.reduce((sum, disk) => sum + disk.allocatedBytes, 0);
}

/** @throws scratch-full before anything was done to the VM */
export async function refuseWithoutScratch(folder: string, disks: readonly Disk[]): Promise<void> {
  const { freeBytes, reserveBytes } = await spaceOf(folder);
  const device = (await stat(folder)).dev;
  const images = await Promise.all(
    disks.map(({ image }) =>
      stat(image).then(
        ({ dev }) => dev,
        () => null,
      ),
    ),
  );
  const shared = images.includes(device);
  const needed = shared ? mostBytes(disks) : 0;
  if (freeBytes - reserveBytes > needed) return;
  throw new QmpvaultError(
    'scratch-full',
    `scratch in ${folder} has ${formatBytes(freeBytes)} free, of which ${formatBytes(reserveBytes)} are kept${
      shared
        ? `; it lies on the filesystem of the VM's images, so there must be room for all of ${formatBytes(needed)}`
        : ''
    }. Name a folder on a filesystem of its own with --scratch.`,
    { details: { folder, freeBytes, reserveBytes, neededBytes: needed, shared } },
  );
}

/**
 * To be asked again and again during a run.
 * @param limitBytes of all runs of this host together
 * @throws scratch-full while the guest still has room
 */
export async function refuseFullScratch(folder: string, limitBytes?: number): Promise<void> {
  const { freeBytes, reserveBytes } = await spaceOf(folder);
  const isFull = freeBytes <= reserveBytes;
  const allBytes = limitBytes === undefined ? 0 : await usedByRuns(dirname(folder));
  if (!isFull && allBytes <= (limitBytes ?? 0)) return;
  const usedBytes = await usedIn(folder);
  const why = isFull
    ? `is running out: ${formatBytes(freeBytes)} free`
    : `has reached its limit of ${formatBytes(limitBytes ?? 0)}: ${formatBytes(allBytes)} in use`;
  throw new QmpvaultError(
    'scratch-full',
    `scratch in ${folder} ${why}, this run uses ${formatBytes(usedBytes)}. The run was ended so that the guest is not harmed.`,
    { details: { folder, freeBytes, reserveBytes, usedBytes, limitBytes: limitBytes ?? null } },
  );
}

async function usedByRuns(scratch: string): Promise<number> {
  const names = await readdir(scratch).catch(() => []);
  const used = await Promise.all(
    names.filter((name) => name.startsWith(NODE_PREFIX)).map((name) => usedIn(join(scratch, name))),
  );
  return used.reduce((sum, bytes) => sum + bytes, 0);
}

async function usedIn(folder: string): Promise<number> {
  const names = await readdir(folder).catch(() => []);
  const sizes = await Promise.all(
    names.map((name) =>
      stat(join(folder, name)).then(
        ({ blocks }) => blocks * 512,
        () => 0,
      ),
    ),
  );
  return sizes.reduce((sum, bytes) => sum + bytes, 0);
}

async function spaceOf(folder: string): Promise<{ freeBytes: number; reserveBytes: number }> {
  const { bavail, blocks, bsize } = await statfs(folder);
  return { freeBytes: bavail * bsize, reserveBytes: Math.floor(blocks * bsize * RESERVE) };
}
