/**
 * Puts a point's content into the images of its VM, where the VM finds them when it is started next. The VM must not
 * run, and no backup of it: the lease of the VM and QEMU's locks on the images say so. The new images carry the bitmap of
 * their point, so that the next backup is a thin increment onto it.
 */
import { realpath, stat } from 'node:fs/promises';
import { isAbsolute } from 'node:path';
import { errnoOf, messageOf, QmpvaultError } from '../base/errors.ts';
import type { DiskName } from '../base/ids.ts';
import { refuseInUse } from '../image/image-bitmaps.ts';
import { overlayOf } from '../image/overlays.ts';
import { readQcow2Header } from '../image/qcow2-header.ts';
import type { QemuTools } from '../image/tools.ts';
import type { Hold } from '../vault/holds.ts';
import type { Lease } from '../vault/lease.ts';
import type { Manifest } from '../vault/manifest.ts';
import type { Vault } from '../vault/vault.ts';
import type { VmFolder } from '../vault/vm-folder.ts';
import type { VmRecord } from '../vault/vm-record.ts';
import { releaseReplaced } from './holds.ts';
import { OpenPoint, type PointWish } from './open-point.ts';
import { Replacement, type ReplacementEngine } from './replacement.ts';
import { type RestoreControl, type RestoreResult, restoreDisks } from './restore.ts';
import { diskChain, type RestoreFormat } from './restore-plan.ts';
import { unfit } from './target.ts';

export interface InPlaceRequest extends PointWish {
  /** Keeps the old images beside the new ones, under other names. */
  readonly keepOld: boolean;
}

export interface InPlaceResult extends RestoreResult {
  /** Where the old images are kept. */
  readonly kept: readonly string[];
}

interface OwnImage {
  readonly disk: DiskName;
  readonly image: string;
  readonly format: RestoreFormat;
}

/** Of a vault that cannot be written: then no backup can be at work from here either. */
const UNWRITABLE = new Set(['EROFS', 'EACCES', 'EPERM', 'ENOSPC', 'EDQUOT']);

/**
 * @throws as restorePoint; vm-busy while an image is in use; vm-unfit for an image that is no file of its own, or that
 *   has become the backing file of another one; vault-locked while a backup or another change of this VM is at work
 */
export async function restoreInPlace(
  engine: ReplacementEngine,
  vault: Vault,
  request: InPlaceRequest,
  control: RestoreControl = {},
): Promise<InPlaceResult> {
  const { signal } = control;
  const { tools } = engine;
  await using open = await OpenPoint.open(vault, request, { what: 'a restore in place', signal });
  const { vm, point, listing } = open;
  await using _lease = await lockOut(vm, signal);
  const warnings = await Replacement.finish(engine, vault, vm.name);
  const { images, left } = ownImages(await vm.readRecord(), point);
  for (const one of images) warnings.push(...(await refuseUnfit(tools, one)));
  const plans = images.map(({ disk, image, format }) => ({
    ...diskChain(listing, point, disk),
    target: image,
    format,
  }));
  const holds = await vm.holds();
  let replacement: Replacement | undefined;
  let kept: string[] = [];
  try {
    const result = await restoreDisks(tools, vault, open, plans, {
      ...control,
      force: true,
      begin: async (sites) => {
        const what = { vault, vm: vm.name, point: point.id, keepOld: request.keepOld };
        replacement = await Replacement.begin(engine, what, sites);
      },
      publish: async (targets) => {
        for (const target of targets) await target.complete();
        kept = (await replacement?.switchAll()) ?? [];
      },
    });
    // What is kept still stands where it stood.
    const over = request.keepOld ? [] : await endHolds(vm, holds, result);
    return { ...result, kept, warnings: [...left, ...warnings, ...result.warnings, ...over] };
  } catch (error) {
    await replacement?.abandon();
    throw error;
  }
}

/** The images were overlays of an instant restore. @returns warnings: what was restored is restored */
async function endHolds(
  vm: VmFolder,
  holds: readonly Hold[],
  { restored }: RestoreResult,
): Promise<string[]> {
  try {
    const paths = await Promise.all(restored.map(({ path }) => realpath(path)));
    await releaseReplaced(vm, holds, paths);
    return [];
  } catch (error) {
    return [`the hold of an instant restore that was replaced is still there: ${messageOf(error)}`];
  }
}

async function lockOut(vm: VmFolder, signal: AbortSignal | undefined): Promise<Lease | null> {
  try {
    return await vm.acquireLease({ what: 'a restore in place', leaveChange: true, signal });
  } catch (error) {
    if (UNWRITABLE.has(errnoOf(error) ?? '')) return null;
    throw error;
  }
}

/** By what the vault remembers of the VM; where it remembers nothing, by where the point was read from. */
function ownImages(record: VmRecord | null, { id, disks }: Manifest): { images: OwnImage[]; left: string[] } {
  const images: OwnImage[] = [];
  const left: string[] = [];
  for (const { name: disk, source } of disks) {
    const known = record === null ? source : record.disks.find(({ name }) => name === disk);
    if (known === undefined) {
      left.push(
        `${disk} of ${id} is no disk of the VM any more, and was not restored: --disk ${disk}=TARGET does it`,
      );
      continue;
    }
    const { image, format } = known;
    if (format !== 'qcow2' && format !== 'raw') {
      throw unfit(image, `has the format ${format}: restore ${disk} to somewhere else`);
    }
    images.push({ disk, image, format });
  }
  for (const { name } of record?.disks ?? []) {
    if (disks.some((disk) => disk.name === name)) continue;
    left.push(`${name}, a disk of the VM, is not in ${id}, and was left as it is`);
  }
  if (images.length > 0) return { images, left };
  throw new QmpvaultError('disk-unknown', `none of the disks of ${id} is one of the VM: ${left.join('; ')}`);
}

/** @returns warnings */
async function refuseUnfit(tools: QemuTools, { disk, image, format }: OwnImage): Promise<string[]> {
  const elsewhere = `restore it with --disk ${disk}=TARGET`;
  if (!isAbsolute(image)) throw unfit(image, `is no file of this host: ${elsewhere}`);
  const found = await stat(image).catch(() => null);
  // It was lost, which may be why it is restored.
  if (found === null) return [];
  if (!found.isFile()) throw unfit(image, `is no file, so the old one cannot be kept: ${elsewhere} --force`);
  const overlay = await overlayOf(image);
  if (overlay !== null) {
    throw new QmpvaultError(
      'vm-unfit',
      `${overlay} stands on ${image}, which was the image of ${disk} in its last backup: was a snapshot taken since? Back the VM up once more, or ${elsewhere}`,
      { details: { disk, image, overlay } },
    );
  }
  await refuseInUse(tools, { path: image, format });
  if (format === 'raw') return [];
  const backing = await readQcow2Header(await realpath(image)).then(
    ({ backingLink }) => backingLink,
    // Damaged, which may be why it is restored.
    () => null,
  );
  return backing === null ? [] : [`${image} stood on ${backing}, and stands on nothing now`];
}
