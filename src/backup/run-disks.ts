/** The disks of one run: what each one's file stands on, how it is made, and how it gets its contents. */
import { QmpvaultError } from '../base/errors.ts';
import { newBitmapName } from '../base/ids.ts';
import { createEmptyQcow2 } from '../image/empty-qcow2.ts';
import { rebaseImage } from '../image/qemu-img.ts';
import type { QemuTools } from '../image/tools.ts';
import { ioError, toolError } from '../vault/io-error.ts';
import { backingLinkTo } from '../vault/links.ts';
import type { Staging } from '../vault/staging.ts';
import type { Vault } from '../vault/vault.ts';
import { GRANULARITY_BYTES, newPattern } from '../vm/bitmaps.ts';
import type { Disk } from '../vm/disks.ts';
import type { DiskPlan, Plan } from './plan.ts';
import { type RunFolders, vmNbdSocket } from './run-folders.ts';
import type { CopiedDisk, RunDisk } from './site.ts';
import type { Survey } from './survey.ts';

const FILES: readonly string[] = ['{disk}.qcow2'];

/** @param files see BackupRequest */
export function runDisks(
  vault: Vault,
  { disks, plan }: Pick<Survey, 'disks' | 'plan'>,
  files: readonly string[] = FILES,
): RunDisk[] {
  return disks.map(({ disk }, index) => {
    const own: DiskPlan =
      plan.kind === 'full' ? { how: 'full' } : (plan.disks.get(disk.name) ?? { how: 'full' });
    return {
      index,
      disk,
      plan: own,
      backingLink: own.how === 'full' ? null : linkToParent(plan, disk),
      copiedAnyway: own.how === 'tracked' ? (entryOfParent(plan, disk)?.bitmap?.pattern ?? []) : [],
      bitmap: {
        node: disk.node,
        name: newBitmapName(vault.id),
        persistent: disk.keepsBitmaps,
        sizeBytes: disk.sizeBytes,
        pattern: newPattern(disk.sizeBytes),
      },
      file: (files[index] ?? files.at(-1) ?? '').replaceAll('{disk}', () => disk.name),
    };
  });
}

function entryOfParent(plan: Plan, { name: wanted }: Disk) {
  return plan.kind === 'full' ? undefined : plan.parent.disks.find(({ name }) => name === wanted);
}

function linkToParent(plan: Plan, disk: Disk): string {
  const entry = entryOfParent(plan, disk);
  if (plan.kind === 'incremental' && entry !== undefined) return backingLinkTo(plan.parent.id, entry.file);
  throw new QmpvaultError('internal', `disk ${disk.name} has no parent to build on`);
}

interface FileOptions {
  readonly tools: QemuTools;
  readonly staging: Staging;
  readonly folders: RunFolders;
  readonly signal: AbortSignal | undefined;
}

/** Makes a disk's empty file, and opens our own descriptor on it. One that will be compared first stands on the VM's snapshot. */
export async function createFile(
  { disk, file, plan, backingLink, copiedAnyway }: RunDisk,
  { staging, folders }: Pick<FileOptions, 'staging' | 'folders'>,
): Promise<void> {
  const link = plan.how === 'resync' ? exportLink(vmNbdSocket(folders), disk.name) : backingLink;
  const format = plan.how === 'resync' ? 'raw' : 'qcow2';
  const path = staging.diskPath(file);
  const image = {
    sizeBytes: disk.sizeBytes,
    clusterBytes: GRANULARITY_BYTES,
    tablesFor: copiedAnyway.filter((offset) => offset < disk.sizeBytes),
    ...(link !== null && { backing: { link, format } }),
  };
  await createEmptyQcow2(path, image).catch((error: unknown) => {
    throw ioError(error, 'making', path);
  });
  await staging.hold(file);
}

/**
 * An export as the backing file of an image. Not as an NBD URI: QEMU 11.1 decodes the socket's path twice, so that one
 * with a percent sign is not found.
 */
function exportLink(path: string, exportName: string): string {
  const file = { driver: 'nbd', server: { type: 'unix', path }, export: exportName };
  return `json:${JSON.stringify({ driver: 'raw', file })}`;
}

/**
 * Resync: an empty overlay of the snapshot is moved onto the parent's file. Safe rebase compares the contents of both
 * and stores in the overlay just what differs; whatever had gone wrong with tracking before is put right.
 */
export async function compareWithParent(
  { file, backingLink }: CopiedDisk,
  { tools, staging, signal }: Omit<FileOptions, 'folders'>,
  { onProgress, stallMs }: { onProgress: (fraction: number) => void; stallMs: number },
): Promise<void> {
  if (backingLink === null) throw new QmpvaultError('internal', `${file} has nothing to be compared with`);
  const image = { path: staging.diskPath(file), backing: { link: backingLink, format: 'qcow2' } };
  await rebaseImage(tools, image, { signal, onProgress, stallMs }).catch((error: unknown) => {
    throw toolError(error, 'comparing into', image.path);
  });
}
