/** Deleting one restore point, so that all the others stay. */
import * as fs from 'node:fs/promises';
import { join } from 'node:path';
import { codeOf, QmpvaultError } from '../base/errors.ts';
import { type PointId, pointId, type VmName } from '../base/ids.ts';
import { formatBytes, MiB } from '../base/units.ts';
import { formatOf } from '../image/image-format.ts';
import { readQcow2Header } from '../image/qcow2-header.ts';
import { checkImage } from '../image/qemu-img.ts';
import { checkChain, realFolder } from '../restore/chain-check.ts';
import { diskChain, selectPoint } from '../restore/restore-plan.ts';
import { descendants, pointById } from '../vault/chain.ts';
import type { Change, Move } from '../vault/change.ts';
import { whyPending } from '../vault/digest.ts';
import { ioError } from '../vault/io-error.ts';
import { BESIDE_IMAGES } from '../vault/layout.ts';
import type { Lease } from '../vault/lease.ts';
import type { Manifest } from '../vault/manifest.ts';
import type { PointListing } from '../vault/points.ts';
import type { Vault } from '../vault/vault.ts';
import type { VmFolder } from '../vault/vm-folder.ts';
import { beginChange, type ChangeSite, resumeChange } from './carry-out.ts';
import { asChanged, changeFrom, type DeletePlan, type Descendants, planDelete } from './delete-plan.ts';
import { digestPending } from './digests.ts';
import type { UpkeepControl, UpkeepEngine } from './engine.ts';
import { layerBytes } from './layer-bytes.ts';

export interface DeleteRequest {
  readonly vm: VmName;
  /** An id, a unique beginning of one, or `latest`. */
  readonly point: string;
  /** Only an id will do. A caller that repeats itself must not meet a younger point whose id begins the same. */
  readonly exact?: boolean | undefined;
  readonly descendants: Descendants;
  /** How long to wait for another changer, and then for readers. */
  readonly waitMs?: number | undefined;
  readonly breakLease?: boolean | undefined;
}

export interface DeleteResult {
  readonly removed: readonly PointId[];
  /** The points whose files were changed for it. */
  readonly changed: readonly Manifest[];
  readonly freedBytes: number;
  readonly mergedBytes: number;
}

/** For tables and their own indexes, and for a filesystem that keeps a little back. */
const SLACK_BYTES = MiB;

/**
 * Killed at any moment, every other point reads the same bytes, and whoever takes the lease next finishes it or
 * undoes it.
 * @throws vm-unknown, point-unknown, points-would-be-lost, vault-locked, vault-full, image-invalid, link-refused, cancelled, …
 */
export async function deletePoint(
  engine: UpkeepEngine,
  vault: Vault,
  request: DeleteRequest,
  { signal, onWork }: UpkeepControl = {},
): Promise<DeleteResult> {
  const { waitMs = 0, breakLease = false } = request;
  const folder = vault.vm(request.vm);
  await refuseUnknown(vault, folder);
  const what = `delete of ${request.point}`;
  await using lease = await folder.acquireLease({ what, waitMs, breakLease, leaveChange: true, signal });
  const site: ChangeSite = { engine, folder, lease, signal, onWork, readersMs: waitMs };
  const stuck = await finishOpenChange(site);
  const listing = await folder.points();
  const points = stuck ? listing.points.map((point) => asChanged(point, stuck.change)) : listing.points;
  const plan = await planFor(folder, { ...listing, points }, request);
  // Awaited here: the lease ends with this function.
  if (stuck !== null) return await removeOnly(site, stuck, plan);
  const changed = await deletePlanned(site, listing, plan, what);
  return { ...resultOf(plan), changed: await digestAll(site, changed) };
}

/** With the lease held and no change open. @returns the points whose files were changed, digests pending */
export async function deletePlanned(
  site: ChangeSite,
  listing: PointListing,
  plan: DeletePlan,
  what: string,
): Promise<Manifest[]> {
  await refuseNeeded(site.folder, listing, plan.removes);
  await refuseUnsound(site, listing, plan.moves);
  await refuseFull(site.folder, plan);
  return beginChange(site, changeFrom(plan, what));
}

/** For whoever opens a vault: what a dead process left undone is done as soon as somebody takes the lease. */
export function changeFinisher(engine: UpkeepEngine) {
  return async (folder: VmFolder, lease: Lease, signal: AbortSignal | undefined): Promise<void> => {
    const change = await folder.readChange();
    const site = { engine, folder, lease, signal };
    if (change !== null) await digestAll(site, await resumeChange(site, change));
  };
}

/** A point whose manifest cannot be read may need another one all the same: its images tell. */
async function refuseNeeded(
  folder: VmFolder,
  { broken }: PointListing,
  removes: readonly PointId[],
): Promise<void> {
  for (const { id } of broken) {
    if (removes.some((removed) => removed === id)) continue;
    const needed = await pointsUnder(join(folder.path, id)).catch(() => removes);
    const lost = removes.find((removed) => needed.some((point) => point === removed));
    if (lost === undefined) continue;
    throw new QmpvaultError(
      'points-would-be-lost',
      `the manifest of ${id} cannot be read, and it may need ${lost}: mend or delete ${id} first`,
      { details: { point: lost, broken: id } },
    );
  }
}

/** What an orchestrator put beside the images. One that is called an image and does not look like one is damaged. */
async function isText(file: string): Promise<boolean> {
  return !file.endsWith('.qcow2') && (await formatOf(file)) === 'raw';
}

async function pointsUnder(path: string): Promise<string[]> {
  const names = (await fs.readdir(path)).filter((name) => !BESIDE_IMAGES.has(name));
  const files = names.map((name) => join(path, name));
  const images = await Promise.all(files.map(async (file) => ((await isText(file)) ? [] : [file])));
  const headers = await Promise.all(images.flat().map((file) => readQcow2Header(file)));
  return headers.flatMap(({ backingLink }) => backingLink?.split('/').at(-2) ?? []);
}

/** All that QEMU is about to open is what the manifests say, and is sound: a change that has begun wants to end. */
async function refuseUnsound(
  { engine, folder, signal }: ChangeSite,
  listing: PointListing,
  moves: readonly Move[],
): Promise<void> {
  const real = moves.length === 0 ? folder.path : await realFolder(folder);
  for (const move of moves) {
    const point = listing.points.find(({ id }) => id === move.point);
    if (point === undefined) continue;
    await checkChain(real, diskChain(listing, point, move.disk));
    for (const { point, file } of [move, move.from]) {
      await checkImage(engine.tools, { path: join(folder.path, point, file) }, { signal });
    }
  }
}

async function refuseFull(folder: VmFolder, { moves, mergeBytes }: DeletePlan): Promise<void> {
  if (moves.length === 0) return;
  const { bavail, bsize } = await fs.statfs(folder.path).catch((error: unknown) => {
    throw ioError(error, 'asking for the free space of', folder.path);
  });
  const neededBytes = mergeBytes + moves.length * SLACK_BYTES;
  const freeBytes = bavail * bsize;
  if (freeBytes >= neededBytes) return;
  throw new QmpvaultError(
    'vault-full',
    `merging takes up to ${formatBytes(neededBytes)}, and ${folder.path} has ${formatBytes(freeBytes)} free: free some, or delete points that none needs`,
    { details: { path: folder.path, neededBytes, freeBytes } },
  );
}

async function refuseUnknown(vault: Vault, folder: VmFolder): Promise<void> {
  if (await folder.exists()) return;
  throw new QmpvaultError('vm-unknown', `the vault ${vault.path} has no VM ${folder.name}`, {
    details: { vault: vault.path, vm: folder.name },
  });
}

/** What was done is done: cancelled in here, the digests stay pending. */
export async function digestAll(
  { engine, folder, lease, signal, onWork }: ChangeSite,
  changed: readonly Manifest[],
): Promise<Manifest[]> {
  const digested: Manifest[] = [];
  for (const point of changed) {
    try {
      digested.push(await digestPending(folder, lease, point, { signal, onWork }));
    } catch (error) {
      const why = whyPending(error);
      engine.log.warn({ vm: folder.name, point: point.id, why }, 'its digests are pending');
      digested.push(point);
    }
  }
  return digested;
}

function resultOf({ removes, freedBytes, mergeBytes }: DeletePlan): Omit<DeleteResult, 'changed'> {
  return { removed: removes, freedBytes, mergedBytes: mergeBytes };
}

interface Stuck {
  readonly change: Change;
  readonly error: unknown;
}

/** @returns a change that has no room to be finished */
async function finishOpenChange(site: ChangeSite): Promise<Stuck | null> {
  const change = await site.folder.readChange();
  if (change === null) return null;
  try {
    await digestAll(site, await resumeChange(site, change));
    return null;
  } catch (error) {
    // It may have been undone.
    const open = await site.folder.readChange();
    if (codeOf(error) !== 'vault-full') throw error;
    return open === null ? null : { change: open, error };
  }
}

/** Points that nothing stands on may go all the same: else a change that lacks room would keep all the room. */
async function removeOnly(
  site: ChangeSite,
  { change, error }: Stuck,
  plan: DeletePlan,
): Promise<DeleteResult> {
  const isInUse = (id: PointId) => change.moves.some(({ backing }) => backing?.point === id);
  if (plan.moves.length > 0 || plan.removes.some(isInUse)) throw error;
  const removes = [...plan.removes, ...change.removes.filter((id) => !plan.removes.includes(id))];
  const changed = await beginChange(site, { ...change, removes });
  return { ...resultOf(plan), changed: await digestAll(site, changed) };
}

async function planFor(folder: VmFolder, listing: PointListing, request: DeleteRequest): Promise<DeletePlan> {
  const { points, broken } = listing;
  const { point: selector, exact = false, descendants: wish } = request;
  if (broken.some(({ id }) => id === selector)) return planBroken(points, pointId(selector), wish);
  const point = exact ? pointById(points, selector) : selectPoint(listing, selector);
  return planDelete(points, point, wish, await layerBytes(folder, points));
}

/** What needs a point that cannot be read cannot be restored either. */
function planBroken(points: readonly Manifest[], id: PointId, wish: Descendants): DeletePlan {
  const needing = descendants(points, id);
  if (needing.length > 0 && wish !== 'delete') {
    throw new QmpvaultError(
      'points-would-be-lost',
      `${id} cannot be read, and ${needing.length} points need it: mend it, or delete them too with --with-descendants`,
      { details: { point: id, descendants: needing.map((point) => point.id) } },
    );
  }
  const removes = [...needing.toReversed().map((point) => point.id), id];
  return { moves: [], parents: [], removes, freedBytes: 0, mergeBytes: 0 };
}
