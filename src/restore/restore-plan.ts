/** What a restore reads and where it writes, worked out from manifests alone. Pure. */
import { join, resolve } from 'node:path';
import { QmpvaultError } from '../base/errors.ts';
import type { DiskName, PointId, VmName } from '../base/ids.ts';
import { pointBySelector } from '../vault/chain.ts';
import type { DiskFile } from '../vault/change.ts';
import type { Manifest, ManifestDisk } from '../vault/manifest.ts';
import type { PointListing } from '../vault/points.ts';

export type RestoreFormat = 'qcow2' | 'raw';

/** A folder for all disks (`DIR/<disk>.<format>`, made if missing), or a file or block device for each disk wanted. */
export type RestoreTarget = { readonly dir: string } | { readonly disks: ReadonlyMap<DiskName, string> };

export interface RestoreRequest {
  readonly vm: VmName;
  /** An id, a unique beginning of one, or `latest`. */
  readonly point: string;
  readonly target: RestoreTarget;
  readonly format: RestoreFormat;
  /** Replaces what is at a target. */
  readonly force?: boolean | undefined;
}

/** An image that a chain may hold, with what it must be. */
export interface Layer {
  readonly point: PointId;
  readonly file: string;
  /** null where an open change may have changed it. */
  readonly virtualSizeBytes: number | null;
  /** null where an open change may have changed it. */
  readonly storedBytes: number | null;
  /** What its header may name as backing file, null for none. More than one thing only while a change is open. */
  readonly backings: readonly (DiskFile | null)[];
}

export interface DiskChain {
  readonly disk: DiskName;
  readonly virtualSizeBytes: number;
  /** The image of the point itself first, then all that can be under it. */
  readonly layers: readonly Layer[];
}

export interface DiskPlan extends DiskChain {
  /** Absolute. */
  readonly target: string;
  readonly format: RestoreFormat;
}

/** The part of a listing that a disk's chain is made of. */
export type ChainSource = Pick<PointListing, 'points' | 'going' | 'change'>;

/** @throws point-unknown; usage for an ambiguous beginning; what is wrong with the point if it is a broken one */
export function selectPoint(
  { points, broken }: Pick<PointListing, 'points' | 'broken'>,
  selector: string,
): Manifest {
  const isWanted = selector !== 'latest' && selector !== '';
  const damaged = isWanted ? broken.find(({ id }) => id.startsWith(selector)) : undefined;
  if (damaged && !points.some(({ id }) => id.startsWith(selector))) throw damaged.error;
  return pointBySelector(points, selector);
}

/** @throws disk-unknown, usage for two disks on one target, manifest-invalid for a broken chain */
export function planRestore(
  listing: ChainSource,
  point: Manifest,
  { target, format }: Pick<RestoreRequest, 'target' | 'format'>,
): DiskPlan[] {
  const targets = 'dir' in target ? filesIn(target.dir, point, format) : [...target.disks];
  refuseSharedTarget(targets);
  return targets.map(([name, path]) => ({
    ...diskChain(listing, point, name),
    target: resolve(path),
    format,
  }));
}

function filesIn(dir: string, point: Manifest, format: RestoreFormat): [DiskName, string][] {
  return point.disks.map(({ name }) => [name, join(dir, `${name}.${format}`)]);
}

/**
 * The images that a disk of a point is made of. A change that a killed process left open keeps nobody from reading:
 * a file that it moves may stand on its old backing file or on the new one already, and reads the same on either;
 * the points that go are no points any more, but may be stood on.
 * @throws disk-unknown, manifest-invalid for a broken chain
 */
export function diskChain({ points, going, change }: ChainSource, top: Manifest, name: DiskName): DiskChain {
  const { virtualSizeBytes } = diskOf(top, name) ?? refuseUnknownDisk(top, name);
  const known = [...points, ...going];
  const holders = [top];
  const layers: Layer[] = [];
  for (const point of holders) {
    const disk = diskOf(point, name);
    if (disk === undefined) continue;
    const move = change?.moves.find((move) => move.point === point.id && move.file === disk.file);
    const isSettled = move === undefined && !going.includes(point);
    const backings = move ? [move.from, move.backing] : [backingOf(known, point, disk)];
    layers.push({
      point: point.id,
      file: disk.file,
      virtualSizeBytes: isSettled ? disk.virtualSizeBytes : null,
      storedBytes: isSettled ? disk.storedBytes : null,
      backings,
    });
    const under = backings.flatMap((backing) => known.find(({ id }) => id === backing?.point) ?? []);
    holders.push(...under.filter((point) => !holders.includes(point)));
  }
  if (!layers.some(({ backings }) => backings.includes(null))) throw brokenChain(top, name, layers);
  return { disk: name, virtualSizeBytes, layers };
}

function backingOf(
  known: readonly Manifest[],
  { parent: id }: Manifest,
  disk: ManifestDisk,
): DiskFile | null {
  if (disk.kind === 'full' || id === null) return null;
  const parent = known.find((point) => point.id === id);
  return { point: id, file: (parent && diskOf(parent, disk.name)?.file) ?? disk.file };
}

function diskOf(point: Manifest, name: DiskName): ManifestDisk | undefined {
  return point.disks.find((disk) => disk.name === name);
}

function refuseSharedTarget(targets: readonly (readonly [DiskName, string])[]): void {
  const taken = new Map<string, DiskName>();
  for (const [name, path] of targets) {
    const other = taken.get(resolve(path));
    if (other !== undefined) {
      throw new QmpvaultError('usage', `the disks ${other} and ${name} cannot both be restored to ${path}`);
    }
    taken.set(resolve(path), name);
  }
}

function refuseUnknownDisk(point: Manifest, name: DiskName): never {
  const disks = point.disks.map((disk) => disk.name);
  throw new QmpvaultError(
    'disk-unknown',
    `point ${point.id} of ${point.vm.name} has no disk ${name}; it has ${disks.join(', ')}`,
    { details: { point: point.id, disk: name, disks } },
  );
}

function brokenChain(point: Manifest, name: DiskName, layers: readonly Layer[]): QmpvaultError {
  const broken = layers.at(-1)?.backings.at(-1)?.point;
  return new QmpvaultError(
    'manifest-invalid',
    `the chain of disk ${name} of point ${point.id} is broken: ${broken} is missing or damaged, or stands on itself, or does not have the disk. Restore an older point.`,
    { details: { point: point.id, disk: name, broken } },
  );
}
