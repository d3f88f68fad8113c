/**
 * What a delete changes, worked out from manifests and the sizes of files. Pure.
 *
 * Whatever stood on the point that goes stands afterwards on what that one stood on. So a child takes in the layer
 * of the point that goes, or, if its own layer is the smaller one, is written into it and takes its place; of several
 * children only one can do the second, since it is the last to read the old file. A full leaves nothing to stand on:
 * its first child becomes the full, and the others are made anew over that one.
 */
import { QmpvaultError } from '../base/errors.ts';
import type { DiskName, PointId } from '../base/ids.ts';
import { children, descendants } from '../vault/chain.ts';
import type { Change, DiskFile, Move } from '../vault/change.ts';
import { FORMAT, type Manifest, type ManifestDisk } from '../vault/manifest.ts';

/** What becomes of the points that need the one that goes; `refuse`: a full with descendants is not deleted. */
export type Descendants = 'refuse' | 'keep' | 'delete';

export type LayerBytes = (point: PointId, file: string) => number;

export interface DeletePlan extends Pick<Change, 'moves' | 'parents' | 'removes'> {
  /** Of the files that go. */
  readonly freedBytes: number;
  /** What merging writes, at most. */
  readonly mergeBytes: number;
}

/** @throws points-would-be-lost; manifest-invalid when a child has a disk that its parent does not have */
export function planDelete(
  points: readonly Manifest[],
  point: Manifest,
  wish: Descendants,
  bytesOf: LayerBytes,
): DeletePlan {
  const needing = descendants(points, point.id);
  const going = wish === 'delete' ? [...needing.toReversed(), point] : [point];
  for (const { id, protected: isProtected } of going) if (isProtected) throw protectedPoint(id);
  if (wish === 'refuse' && point.parent === null && needing.length > 0) throw fullOfOthers(point, needing);
  const moves =
    wish === 'delete'
      ? []
      : children(points, point.id).flatMap((child) => movesOf(points, point, child, bytesOf));
  return {
    moves: moves.map(({ move }) => move),
    parents:
      wish === 'delete'
        ? []
        : children(points, point.id).map((child) => parentOf(points, point, child, moves)),
    removes: going.map(({ id }) => id),
    freedBytes: going.reduce((sum, { id, disks }) => sum + bytesOfDisks(id, disks, bytesOf), 0),
    mergeBytes: moves.reduce((sum, { costBytes }) => sum + costBytes, 0),
  };
}

/** A point as its manifest describes it once the change is finished. */
export function asChanged(point: Manifest, { moves, parents }: Pick<Change, 'moves' | 'parents'>): Manifest {
  const change = parents.find(({ point: id }) => id === point.id);
  if (change === undefined) return point;
  const isFull = (name: DiskName) =>
    moves.some((move) => move.point === point.id && move.disk === name && move.backing === null);
  return {
    ...point,
    kind: change.parent === null ? 'full' : 'incremental',
    parent: change.parent,
    disks: point.disks.map((disk) => (isFull(disk.name) ? { ...disk, kind: 'full' } : disk)),
  };
}

interface CostedMove {
  readonly move: Move;
  readonly costBytes: number;
}

function movesOf(
  points: readonly Manifest[],
  point: Manifest,
  child: Manifest,
  bytesOf: LayerBytes,
): CostedMove[] {
  return child.disks
    .filter(({ kind }) => kind === 'incremental')
    .map((disk) => {
      const from = diskOf(point, disk.name, child);
      const below = underlay(points, point, from);
      const above = newParent(points, point, child);
      const heir = above === null || above.id === point.parent ? undefined : findDisk(above, disk.name);
      const backing = heir && above ? { point: above.id, file: heir.file } : (below?.at ?? null);
      const ownBytes = bytesOf(child.id, disk.file);
      const fromBytes = bytesOf(point.id, from.file);
      // A shorter image hides what lies behind its end; merged, it would no longer do so.
      const isHidden = below !== null && below.disk.virtualSizeBytes > from.virtualSizeBytes;
      const canCommit =
        child === lastReader(points, point, bytesOf) && disk.virtualSizeBytes >= from.virtualSizeBytes;
      const how =
        heir !== undefined || isHidden ? 'rewrite' : canCommit && ownBytes <= fromBytes ? 'commit' : 'pull';
      const heirBytes = heir && above ? bytesOf(above.id, heir.file) : fromBytes;
      const costBytes = { rewrite: ownBytes + heirBytes, commit: ownBytes, pull: fromBytes }[how];
      const { name, file } = disk;
      return {
        move: { point: child.id, disk: name, file, from: { point: point.id, file: from.file }, backing, how },
        costBytes,
      };
    });
}

/** What the disk of a point stands on; null: on nothing. */
function underlay(
  points: readonly Manifest[],
  point: Manifest,
  disk: ManifestDisk,
): { at: DiskFile; disk: ManifestDisk } | null {
  if (disk.kind === 'full') return null;
  const parent = points.find(({ id }) => id === point.parent);
  if (parent === undefined) {
    throw new QmpvaultError(
      'manifest-invalid',
      `the point ${point.parent}, on which ${point.id} stands, is missing or damaged: what needs ${point.id} cannot be kept`,
      { details: { point: point.id, broken: point.parent } },
    );
  }
  const found = diskOf(parent, disk.name, point);
  return { at: { point: parent.id, file: found.file }, disk: found };
}

/** Whose child a child becomes; null: nobody's. */
function newParent(points: readonly Manifest[], point: Manifest, child: Manifest): Manifest | null {
  if (point.parent !== null) return points.find(({ id }) => id === point.parent) ?? null;
  const [first = child] = children(points, point.id);
  return first === child ? null : first;
}

/** The one child that may be written into the files that go. */
function lastReader(points: readonly Manifest[], point: Manifest, bytesOf: LayerBytes): Manifest | undefined {
  const all = children(points, point.id);
  if (point.parent === null) return all[0];
  const size = ({ id, disks }: Manifest) => bytesOfDisks(id, disks, bytesOf);
  return all.toSorted((a, b) => size(a) - size(b))[0];
}

function parentOf(
  points: readonly Manifest[],
  point: Manifest,
  child: Manifest,
  moves: readonly CostedMove[],
): Change['parents'][number] {
  const isIncremental = moves.some(({ move }) => move.point === child.id && move.backing !== null);
  const parent = isIncremental ? (newParent(points, point, child)?.id ?? null) : null;
  return { point: child.id, parent };
}

function bytesOfDisks(id: PointId, disks: readonly ManifestDisk[], bytesOf: LayerBytes): number {
  return disks.reduce((sum, { file }) => sum + bytesOf(id, file), 0);
}

function findDisk(point: Manifest, name: DiskName): ManifestDisk | undefined {
  return point.disks.find((disk) => disk.name === name);
}

function diskOf(point: Manifest, name: DiskName, child: Manifest): ManifestDisk {
  const disk = findDisk(point, name);
  if (disk !== undefined) return disk;
  throw new QmpvaultError(
    'manifest-invalid',
    `the disk ${name} of ${child.id} stands on ${point.id}, which does not have it: verify the vault`,
    { details: { point: child.id, disk: name, broken: point.id } },
  );
}

function protectedPoint(id: PointId): QmpvaultError {
  return new QmpvaultError(
    'points-would-be-lost',
    `the point ${id} is protected: 'qmpvault protect --off' lifts that`,
    { details: { point: id, protected: true } },
  );
}

function fullOfOthers({ id }: Manifest, needing: readonly Manifest[]): QmpvaultError {
  return new QmpvaultError(
    'points-would-be-lost',
    `${id} is a full, and ${needing.length} points need it: --keep-descendants keeps them (the first child becomes the full), --with-descendants deletes them too`,
    { details: { point: id, descendants: needing.map((point) => point.id) } },
  );
}

export function changeFrom(plan: DeletePlan, what: string): Change {
  const { moves, parents, removes } = plan;
  return { format: FORMAT, what, stage: 'gathering', moves, parents, removes };
}
