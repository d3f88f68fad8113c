/** Whether a VM runs, and where its images are when it does not. */
import { stat } from 'node:fs/promises';
import { isAbsolute } from 'node:path';
import { codeOf, errnoOf, QmpvaultError } from '../base/errors.ts';
import { formatOf } from '../image/image-format.ts';
import { overlayOf } from '../image/overlays.ts';
import { newest } from '../vault/chain.ts';
import type { VmFolder } from '../vault/vm-folder.ts';
import { imageName, type LeftOut } from '../vm/disks.ts';
import type { DiskImage } from '../vm/image-nodes.ts';
import { type CapabilityMemory, Vm } from '../vm/vm.ts';
import type { BackupRequest } from './engine.ts';

/** A VM that does not run, as its images. */
export interface StoppedVm {
  /** Empty when it was never seen running. */
  readonly uuid: string;
  readonly socket: string;
  readonly images: readonly DiskImage[];
  /** Known disks that the caller excludes: their images need not be there. */
  readonly left: readonly LeftOut[];
}

export type VmWishes = Pick<BackupRequest, 'vm' | 'qmp' | 'naming' | 'images' | 'onlyImages' | 'exclude'>;

/**
 * A VM is taken for stopped when nobody listens on its socket, or when no socket is named. Whether a VM does use the
 * images then shows itself when they are opened. A QEMU that listens and does not answer is not stopped.
 * @throws vm-busy, vm-unreachable, usage when neither a socket nor images are known, vm-unfit for an unusable image
 */
export async function findVm(
  folder: VmFolder | null,
  wishes: VmWishes,
  { signal, memory }: { signal?: AbortSignal | undefined; memory: CapabilityMemory },
): Promise<Vm | StoppedVm> {
  let unreachable: unknown;
  if (wishes.qmp !== undefined) {
    try {
      return await Vm.connect(wishes.qmp, { signal, naming: wishes.naming, memory });
    } catch (error) {
      if (codeOf(error) !== 'vm-unreachable' || !nobodyListens(error)) throw error;
      unreachable = error;
    }
  }
  const stopped = await findImages(folder, wishes);
  if (stopped.images.length > 0) return stopped;
  if (unreachable !== undefined) throw unreachable;
  throw new QmpvaultError(
    'usage',
    `neither a socket nor an image of ${wishes.vm} is known: name its QMP socket with --qmp or, if it is stopped, each of its disks with --disk NAME=IMAGE`,
  );
}

function nobodyListens(error: unknown): boolean {
  return ['ENOENT', 'ECONNREFUSED'].includes(errnoOf(error) ?? '');
}

/** Named images come before those that vm.json remembers. */
async function findImages(
  folder: VmFolder | null,
  { qmp, naming, images: named = new Map(), onlyImages, exclude = [] }: VmWishes,
): Promise<StoppedVm> {
  const [record, points] = folder === null ? [null, []] : await whatIsKnown(folder);
  const known = (record?.disks ?? []).map((disk) =>
    naming === 'image' ? { ...disk, name: imageName(disk.image) } : disk,
  );
  const names = new Set([...(onlyImages ? [] : known.map(({ name }) => name)), ...named.keys()]);
  const images: DiskImage[] = [];
  for (const name of names) {
    if (exclude.includes(name)) continue;
    const remembered = known.find((disk) => disk.name === name);
    const image = named.get(name) ?? remembered?.image ?? '';
    const isDevice = await isBlockDevice(name, image);
    if (!named.has(name) && !isDevice) await refuseOutdated(name, image);
    const format = image === remembered?.image ? remembered.format : await formatOf(image);
    images.push({ name, image, format, isDevice, device: remembered?.device ?? '' });
  }
  const last = newest(points.filter(({ vm }) => vm.uuid !== ''));
  return {
    uuid: record?.uuid || (last?.vm.uuid ?? ''),
    socket: qmp ?? '',
    images,
    left: [...names]
      .filter((name) => exclude.includes(name))
      .map((name) => ({ name, why: 'excluded by the caller' })),
  };
}

async function whatIsKnown(folder: VmFolder) {
  const [record, { points }] = await Promise.all([folder.readRecord(), folder.points()]);
  return [record, points] as const;
}

async function isBlockDevice(name: string, image: string): Promise<boolean> {
  const found = isAbsolute(image) ? await stat(image).catch(() => null) : null;
  if (found?.isFile() || found?.isBlockDevice()) return found.isBlockDevice();
  throw new QmpvaultError(
    'vm-unfit',
    `the VM is stopped, and ${image}, the image of its disk ${name}, is no file or block device here: name the image with --disk ${name}=IMAGE, or leave the disk out with --exclude ${name}`,
    { details: { disk: name, image } },
  );
}

/** After a snapshot the VM writes to the overlay, and what is remembered is how the disk was before. */
async function refuseOutdated(name: string, image: string): Promise<void> {
  const overlay = await overlayOf(image);
  if (overlay === null) return;
  throw new QmpvaultError(
    'vm-unfit',
    `the VM is stopped, and ${overlay} stands on ${image}, which was the image of its disk ${name} in its last backup: was a snapshot taken since? Name the present one with --disk ${name}=IMAGE`,
    { details: { disk: name, image, overlay } },
  );
}
