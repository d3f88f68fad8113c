/** Making a point stand on an older one of its chain, so that it no longer needs those in between. They stay. */
import { QmpvaultError } from '../base/errors.ts';
import type { DiskName, PointId, VmName } from '../base/ids.ts';
import { ancestors, pointById } from '../vault/chain.ts';
import type { DiskFile, Move } from '../vault/change.ts';
import type { Manifest } from '../vault/manifest.ts';
import type { Vault } from '../vault/vault.ts';
import { deletePlanned, digestAll } from './delete.ts';
import type { DeletePlan, LayerBytes } from './delete-plan.ts';
import type { UpkeepControl, UpkeepEngine } from './engine.ts';
import { layerBytes } from './layer-bytes.ts';

export interface RebaseRequest {
  readonly vm: VmName;
  readonly point: PointId;
  /** An ancestor of the point. */
  readonly onto: PointId;
  /** How long to wait for another changer, and then for readers. */
  readonly waitMs?: number | undefined;
}

/**
 * Killed at any moment, every point reads the same bytes; whoever takes the lease next finishes it or undoes it.
 * @returns the points whose files were changed: none, when it stands there already
 * @throws point-unknown; usage when `onto` is no ancestor; vault-locked, vault-full, image-invalid, cancelled, …
 */
export async function rebasePoint(
  engine: UpkeepEngine,
  vault: Vault,
  { vm, point: id, onto, waitMs = 0 }: RebaseRequest,
  { signal, onWork }: UpkeepControl = {},
): Promise<Manifest[]> {
  const folder = vault.vm(vm);
  const what = `rebase of ${id}`;
  await using lease = await folder.acquireLease({ what, waitMs, signal });
  const site = { engine, folder, lease, signal, onWork, readersMs: waitMs };
  const listing = await folder.points();
  const point = pointById(listing.points, id);
  pointById(listing.points, onto);
  if (point.parent === onto) return [];
  const plan = planRebase(listing.points, point, onto, await layerBytes(folder, listing.points));
  return await digestAll(site, await deletePlanned(site, listing, plan, what));
}

/** Each of its files is made anew, holding what it and the files in between hold. */
function planRebase(
  points: readonly Manifest[],
  point: Manifest,
  onto: PointId,
  bytesOf: LayerBytes,
): DeletePlan {
  const line = ancestors(points, point.id);
  const end = line.findIndex(({ id }) => id === onto);
  if (end < 0) {
    throw new QmpvaultError('usage', `${point.id} does not descend from ${onto}: it cannot stand on it`, {
      details: { point: point.id, onto },
    });
  }
  const moves: Move[] = [];
  let mergeBytes = 0;
  for (const { name, kind, file } of point.disks) {
    if (kind === 'full') continue;
    const layers = layersOf(line.slice(0, end + 1), name);
    const last = layers.at(-1);
    const [from] = layers;
    if (from === undefined || last === undefined) throw brokenLine(point, name);
    const backing = last.point === onto ? last : null;
    const taken = [{ point: point.id, file }, ...layers.filter((layer) => layer !== backing)];
    mergeBytes += taken.reduce((sum, layer) => sum + bytesOf(layer.point, layer.file), 0);
    moves.push({ point: point.id, disk: name, file, from, backing, how: 'rewrite' });
  }
  const isIncremental = moves.some(({ backing }) => backing !== null);
  const parents = [{ point: point.id, parent: isIncremental ? onto : null }];
  return { moves, parents, removes: [], freedBytes: 0, mergeBytes };
}

/** The files of a disk along a line, down to a full of it. */
function layersOf(line: readonly Manifest[], name: DiskName): DiskFile[] {
  const layers: DiskFile[] = [];
  for (const { id, disks } of line) {
    const disk = disks.find((disk) => disk.name === name);
    if (disk === undefined) break;
    layers.push({ point: id, file: disk.file });
    if (disk.kind === 'full') break;
  }
  return layers;
}

function brokenLine({ id, parent }: Manifest, disk: DiskName): QmpvaultError {
  return new QmpvaultError(
    'manifest-invalid',
    `the disk ${disk} of ${id} stands on ${parent}, which does not have it: verify the vault`,
    { details: { point: id, disk, broken: parent } },
  );
}
