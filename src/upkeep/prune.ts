/** Deleting what a policy no longer keeps. */
import { QmpvaultError } from '../base/errors.ts';
import type { PointId, VmName } from '../base/ids.ts';
import { heldPoints } from '../vault/holds.ts';
import type { Manifest } from '../vault/manifest.ts';
import type { PointListing } from '../vault/points.ts';
import type { Vault } from '../vault/vault.ts';
import type { VmFolder } from '../vault/vm-folder.ts';
import type { ChangeSite } from './carry-out.ts';
import { changeFinisher, deletePlanned, digestAll } from './delete.ts';
import { planDelete } from './delete-plan.ts';
import type { UpkeepControl, UpkeepEngine } from './engine.ts';
import { layerBytes } from './layer-bytes.ts';
import { type PrunePlan, planPrune } from './prune-plan.ts';
import { judge, type Keep, type Verdict } from './retention.ts';

export interface PruneRequest {
  readonly vm: VmName;
  /** null: all are kept, as far as `maxChain` allows. */
  readonly keep: Keep | null;
  readonly timeZone: string;
  /** No chain is to have more points: its oldest ones are merged into the full. */
  readonly maxChain?: number | undefined;
  readonly dryRun?: boolean | undefined;
  /** How long to wait for another changer, and then for readers. */
  readonly waitMs?: number | undefined;
  readonly breakLease?: boolean | undefined;
}

export interface PruneResult {
  /** Newest first. */
  readonly kept: readonly { readonly id: PointId; readonly reasons: Verdict<Manifest>['reasons'] }[];
  readonly removed: readonly PointId[];
  readonly freedBytes: number;
  readonly mergedBytes: number;
  readonly warnings: readonly string[];
}

/** @throws usage for a policy that keeps nothing; manifest-invalid; as deletePoint: what went before that stays gone */
export async function prune(
  engine: UpkeepEngine,
  vault: Vault,
  request: PruneRequest,
  { signal, onWork }: UpkeepControl = {},
): Promise<PruneResult> {
  const { waitMs = 0, breakLease = false } = request;
  const folder = vault.vm(request.vm);
  if (!(await folder.exists())) {
    throw new QmpvaultError('vm-unknown', `the vault ${vault.path} has no VM ${folder.name}`, {
      details: { vault: vault.path, vm: folder.name },
    });
  }
  if (request.dryRun) return (await survey(folder, await folder.points(), request)).result;
  const what = `prune of ${request.vm}`;
  await using lease = await folder.acquireLease({ what, waitMs, breakLease, leaveChange: true, signal });
  await changeFinisher(engine)(folder, lease, signal);
  const { plan, result } = await survey(folder, await folder.points(), request);
  await carryOut({ engine, folder, lease, signal, onWork, readersMs: waitMs }, plan);
  return result;
}

async function survey(
  folder: VmFolder,
  { points, broken }: PointListing,
  { keep, timeZone, maxChain }: PruneRequest,
): Promise<{ plan: PrunePlan; result: PruneResult }> {
  // One that cannot be read may be the newest, and the one to be kept.
  const [unreadable] = broken;
  if (unreadable !== undefined) throw unreadable.error;
  const verdicts =
    keep === null ? points.map((point) => ({ point, reasons: [] })) : judge(points, keep, timeZone);
  const expired = keep === null ? [] : verdicts.filter(({ reasons }) => reasons.length === 0);
  const held = new Set(heldPoints(points, await folder.holds()).keys());
  const wish = { expired: new Set(expired.map(({ point }) => point.id)), maxChain, held };
  const plan = planPrune(points, wish, await layerBytes(folder, points));
  const { removes, freedBytes, mergeBytes, warnings } = plan;
  const kept = verdicts
    .filter(({ point }) => !removes.includes(point.id))
    .map(({ point, reasons }) => ({ id: point.id, reasons }));
  return { plan, result: { kept, removed: removes, freedBytes, mergedBytes: mergeBytes, warnings } };
}

async function carryOut(site: ChangeSite, { steps }: PrunePlan): Promise<void> {
  const changed = new Set<PointId>();
  for (const { point: id, descendants } of steps) {
    const listing = await site.folder.points();
    const point = listing.points.find((point) => point.id === id);
    if (point === undefined) continue;
    const plan = planDelete(
      listing.points,
      point,
      descendants,
      await layerBytes(site.folder, listing.points),
    );
    const others = await deletePlanned(site, listing, plan, `delete of ${id}`);
    for (const other of others) changed.add(other.id);
  }
  const { points } = await site.folder.points();
  await digestAll(
    site,
    points.filter(({ id }) => changed.has(id)),
  );
}
