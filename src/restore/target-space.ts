/** Whether the targets can take what is to be written, asked before the first byte is. */
import * as fs from 'node:fs/promises';
import { codeOf } from '../base/errors.ts';
import { formatBytes } from '../base/units.ts';
import type { RestoreFormat } from './restore-plan.ts';
import { type TargetSite, targetError, unfit } from './target.ts';

export interface Need {
  readonly site: TargetSite;
  readonly format: RestoreFormat;
  readonly virtualSizeBytes: number;
  /** What a sparse copy takes at most. */
  readonly requiredBytes: number;
}

/** Whether there is surely enough. @throws restore-failed */
export async function haveRoom(needs: readonly Need[]): Promise<boolean> {
  return refuseTooSmall(needs).then(
    () => true,
    (error) => {
      if (codeOf(error) === 'target-unfit') return false;
      throw error;
    },
  );
}

/** @throws target-unfit, restore-failed */
export async function refuseTooSmall(needs: readonly Need[]): Promise<void> {
  const files = needs.filter((need) => !refuseSmallDevice(need));
  const folders = await Promise.all(
    files.map(async (need) => ({ ...need, ...(await filesystemOf(need.site.existingFolder)) })),
  );
  for (const [, together] of Map.groupBy(folders, ({ filesystem }) => filesystem)) {
    const requiredBytes = together.reduce((sum, need) => sum + need.requiredBytes, 0);
    const [{ site, freeBytes } = { site: null, freeBytes: 0 }] = together;
    if (site === null || requiredBytes <= freeBytes) continue;
    throw unfit(
      site.existingFolder,
      `has ${formatBytes(freeBytes)} free, and the restore takes ${formatBytes(requiredBytes)}: free some or choose another`,
    );
  }
}

/** What the guest will notice: null when the target is a file or has the disk's size. */
export function oversize({ site, format, virtualSizeBytes }: Need): string | null {
  const { path, device } = site;
  if (format !== 'raw' || device === null || device.sizeBytes === virtualSizeBytes) return null;
  const extra = device.sizeBytes - virtualSizeBytes;
  return `${path} is ${extra} bytes larger than the disk: used as a raw disk, it ends in ${formatBytes(extra)} of what it held before`;
}

/** @returns false for a file */
function refuseSmallDevice({ site, format, virtualSizeBytes, requiredBytes }: Need): boolean {
  if (site.device === null) return false;
  const leastBytes = format === 'raw' ? virtualSizeBytes : requiredBytes;
  if (site.device.sizeBytes >= leastBytes) return true;
  throw unfit(
    site.path,
    `has ${site.device.sizeBytes} bytes, and the disk takes ${leastBytes}: choose a larger device`,
  );
}

async function filesystemOf(folder: string): Promise<{ filesystem: number; freeBytes: number }> {
  try {
    const [{ dev }, { bavail, bsize }] = await Promise.all([fs.stat(folder), fs.statfs(folder)]);
    return { filesystem: dev, freeBytes: bavail * bsize };
  } catch (error) {
    throw targetError(error, 'asking for the free space of', folder);
  }
}
