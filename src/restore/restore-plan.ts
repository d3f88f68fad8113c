/** What a restore reads and where it writes, worked out from manifests alone. Pure. */
import { join, resolve } from 'node:path';
import { QmpvaultError } from '../base/errors.ts';
import type { DiskName, PointId, VmName } from '../base/ids.ts';
import { ancestors, pointBySelector } from '../vault/chain.ts';
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

/** One image of a disk's chain, with what its header must say. */
export interface Layer {
  readonly point: PointId;
  readonly file: string;
  readonly virtualSizeBytes: number;
  readonly storedBytes: number;
  /** null: a full, which must have no backing file. */
  readonly backing: { readonly point: PointId; readonly file: string } | null;
}

export interface DiskPlan {
  readonly disk: DiskName;
  readonly virtualSizeBytes: number;
  /** The image of the point itself first, the full last. */
  readonly layers: readonly Layer[];
  /** Absolute. */
  readonly target: string;
}

/** @throws point-unknown; usage for an ambiguous beginning; what is wrong with the point if it is a broken one */
export function selectPoint({ points, broken }: PointListing, selector: string): Manifest {
  const isWanted = selector !== 'latest' && selector !== '';
  const damaged = isWanted ? broken.find(({ id }) => id.startsWith(selector)) : undefined;
  if (damaged && !points.some(({ id }) => id.startsWith(selector))) throw damaged.error;
  return pointBySelector(points, selector);
}

/** @throws disk-unknown, usage for two disks on one target, manifest-invalid for a broken chain */
export function planRestore(
  points: readonly Manifest[],
  point: Manifest,
  { target, format }: Pick<RestoreRequest, 'target' | 'format'>,
): DiskPlan[] {
  const targets = 'dir' in target ? filesIn(target.dir, point, format) : [...target.disks];
  refuseSharedTarget(targets);
  return targets.map(([name, path]) => {
    const disk = diskOf(point, name) ?? refuseUnknownDisk(point, name);
    const line = disk.kind === 'full' ? [point] : [point, ...ancestors(points, point.id)];
    return {
      disk: name,
      virtualSizeBytes: disk.virtualSizeBytes,
      layers: [...layersOf(line, name)],
      target: resolve(path),
    };
  });
}

function filesIn(dir: string, point: Manifest, format: RestoreFormat): [DiskName, string][] {
  return point.disks.map(({ name }) => [name, join(dir, `${name}.${format}`)]);
}

/** @param line a point and its ancestors, nearest first */
function* layersOf(line: readonly Manifest[], name: DiskName): Generator<Layer> {
  for (const [i, point] of line.entries()) {
    const { file, kind, virtualSizeBytes, storedBytes } = diskOf(point, name) ?? refuseGap(line, name);
    const parent = kind === 'full' ? undefined : line[i + 1];
    const under = parent && (diskOf(parent, name) ?? refuseGap(line, name));
    yield {
      point: point.id,
      file,
      virtualSizeBytes,
      storedBytes,
      backing: parent && under ? { point: parent.id, file: under.file } : null,
    };
    if (parent === undefined) return;
  }
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

function refuseGap(line: readonly Manifest[], name: DiskName): never {
  const holder = line.find((point) => diskOf(point, name) === undefined);
  throw new QmpvaultError(
    'manifest-invalid',
    `the chain of disk ${name} of point ${line[0]?.id} is broken: its ancestor ${holder?.id} does not have the disk. Restore an older point.`,
    { details: { point: line[0]?.id, disk: name, broken: holder?.id } },
  );
}
