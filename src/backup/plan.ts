/**
 * What the next backup will be, and why: a pure function of what is known. `inspect` prints it, a run carries it out.
 *
 * A disk's bitmap can be trusted only if it is the one that belongs to a published point of this VM in this vault,
 * is recording, and proved its identity. Everything else means that changes may be missing from it: then the
 * whole disk is read again, and compared with the parent point (resync) or copied (full).
 */
import type { BitmapName, DiskName, PointId } from '../base/ids.ts';
import { formatBytes } from '../base/units.ts';
import { ancestors, chainLength, isSealedChain, newest } from '../vault/chain.ts';
import type { Manifest } from '../vault/manifest.ts';
import type { NamedParent } from './engine.ts';

/** What was found of a disk's bitmaps. `why` is a clause that fits behind the disk's name. */
export type BitmapHealth =
  | { readonly state: 'tracked'; readonly name: BitmapName; readonly point: Manifest }
  | { readonly state: 'lost'; readonly why: string };

export interface DiskFacts {
  readonly name: DiskName;
  readonly sizeBytes: number;
  readonly bitmap: BitmapHealth;
  /** Why its contents cannot be compared with those of a point; null: they can. */
  readonly resyncTrouble: string | null;
}

export interface Facts {
  /** Published points, oldest first. */
  readonly points: readonly Manifest[];
  /** Folders of points whose manifest cannot be read. */
  readonly broken: readonly { readonly id: string }[];
  readonly disks: readonly DiskFacts[];
  readonly wishes: {
    readonly full: boolean;
    readonly fullEvery: number;
    /** What the caller wants it to stand on, and nothing else. */
    readonly parent?: NamedParent | undefined;
  };
  /** Points with a file that is missing or has another length than its manifest says, and which. */
  readonly damaged: ReadonlyMap<PointId, string>;
}

export type FullReason = 'first' | 'requested' | 'cadence' | 'chain-sealed' | 'disks-changed' | 'bitmap-lost';

/** How one disk gets into an incremental point. */
export type DiskPlan =
  | { readonly how: 'tracked'; readonly bitmap: BitmapName }
  | { readonly how: 'resync'; readonly why: string }
  /** The parent does not have it. */
  | { readonly how: 'full' };

export interface IncrementalPlan {
  readonly kind: 'incremental';
  readonly how: 'tracked' | 'resynced' | 'branched';
  readonly why: string;
  readonly parent: Manifest;
  readonly disks: ReadonlyMap<DiskName, DiskPlan>;
}

export type Plan =
  | { readonly kind: 'full'; readonly how: FullReason; readonly why: string }
  | IncrementalPlan;

export function planBackup(facts: Facts): Plan {
  const { points, broken, disks, wishes } = facts;
  const full = (how: FullReason, why: string): Plan => ({ kind: 'full', how, why });
  const last = newest(points);
  if (last === null) {
    return broken.length === 0
      ? full('first', 'there is no restore point of this VM yet')
      : full(
          'chain-sealed',
          `no manifest of this VM's points can be read (${broken.map(({ id }) => id).join(', ')})`,
        );
  }
  if (wishes.full) return full('requested', 'a full was asked for');

  const named = wishes.parent && points.find(({ id }) => id === wishes.parent?.point);
  if (wishes.parent !== undefined && named === undefined) {
    return full(
      'chain-sealed',
      `${wishes.parent.point}, on which it was to stand, is not there or cannot be read`,
    );
  }
  const parent = named ?? rolledBackTo(facts, last) ?? last;
  const trouble = chainTrouble(facts, parent);
  if (trouble !== null) return full('chain-sealed', trouble);
  const length = chainLength(points, parent.id);
  if (length >= wishes.fullEvery) {
    return full(
      'cadence',
      `the chain has ${length} point${length === 1 ? '' : 's'}, and a full is due every ${wishes.fullEvery}`,
    );
  }
  const shrunk = disks.find(
    ({ name, sizeBytes }) => sizeBytes < (entryOf(parent, name)?.virtualSizeBytes ?? 0),
  );
  if (shrunk !== undefined) {
    const before = formatBytes(entryOf(parent, shrunk.name)?.virtualSizeBytes ?? 0);
    return full('disks-changed', `${shrunk.name} shrank from ${before} to ${formatBytes(shrunk.sizeBytes)}`);
  }
  const distrust = whyDistrusted(parent, wishes.parent);
  const plans = new Map(disks.map((disk) => [disk.name, diskPlan(disk, parent, distrust)]));
  const added = disks.filter(({ name }) => plans.get(name)?.how === 'full').map(({ name }) => name);
  if (added.length === disks.length) {
    return full('disks-changed', `none of the disks (${added.join(', ')}) is in ${parent.id}`);
  }
  // Who names a parent knows it with these disks, and takes the point for an increment of each.
  if (named !== undefined && added.length > 0) {
    return full('disks-changed', `${added.join(', ')} is not in ${parent.id}, on which it was to stand`);
  }
  const lost: string[] = [];
  for (const { name, resyncTrouble } of disks) {
    const plan = plans.get(name);
    if (plan?.how !== 'resync') continue;
    const what = `changes of ${name} since ${parent.id} are unknown: ${plan.why}`;
    if (resyncTrouble !== null) {
      return full(
        'bitmap-lost',
        `${what}. Its contents cannot be compared with the point's: ${resyncTrouble}`,
      );
    }
    lost.push(what);
  }
  const isResynced = lost.length > 0 && (named !== undefined || parent === last);
  const how = isResynced ? 'resynced' : parent === last ? 'tracked' : 'branched';
  return {
    kind: 'incremental',
    how,
    why: inWords(parent, how, lost, added, gone(parent, disks)),
    parent,
    disks: plans,
  };
}

function diskPlan({ name, bitmap }: DiskFacts, parent: Manifest, distrust: string | null): DiskPlan {
  if (entryOf(parent, name) === undefined) return { how: 'full' };
  if (distrust !== null) return { how: 'resync', why: distrust };
  if (bitmap.state === 'lost') return { how: 'resync', why: bitmap.why };
  if (bitmap.point.id === parent.id) return { how: 'tracked', bitmap: bitmap.name };
  return { how: 'resync', why: `its bitmap tells those since ${bitmap.point.id}: was it alone rolled back?` };
}

function whyDistrusted({ bitmapAlias }: Manifest, named: NamedParent | undefined): string | null {
  if (named?.bitmapAlias === undefined || named.bitmapAlias === bitmapAlias) return null;
  return `its caller speaks of the bitmap ${named.bitmapAlias}, and the point's is ${bitmapAlias ?? 'without a name'}`;
}

/** The one older point whose valid bitmap all disks carry, if something can be put on top of it. */
function rolledBackTo(facts: Facts, last: Manifest): Manifest | null {
  const [first, ...others] = facts.disks.map(({ bitmap }) =>
    bitmap.state === 'tracked' ? bitmap.point : null,
  );
  if (first === undefined || first === null || first.id === last.id) return null;
  if (!others.every((point) => point?.id === first.id)) return null;
  return chainTrouble(facts, first) === null ? first : null;
}

/** Why nothing may be put on top of a point, in words. */
function chainTrouble({ points, damaged }: Facts, point: Manifest): string | null {
  if (isSealedChain(points, point.id)) {
    return `the chain of ${point.id} is sealed, or a point in it is missing or cannot be read`;
  }
  for (const { id } of [point, ...ancestors(points, point.id)]) {
    const damage = damaged.get(id);
    if (damage !== undefined) return `the chain of ${point.id} is damaged: ${damage}`;
  }
  return null;
}

function entryOf(point: Manifest, name: DiskName) {
  return point.disks.find((disk) => disk.name === name);
}

function gone(parent: Manifest, disks: readonly DiskFacts[]): DiskName[] {
  return parent.disks.map(({ name }) => name).filter((name) => !disks.some((disk) => disk.name === name));
}

function inWords(
  { id }: Manifest,
  how: IncrementalPlan['how'],
  lost: readonly string[],
  added: readonly DiskName[],
  removed: readonly DiskName[],
): string {
  const parts = {
    tracked: [`changes since ${id} are tracked on all ${added.length > 0 ? 'other ' : ''}disks`],
    branched: [`all disks were rolled back to ${id}, and changes since then are tracked`],
    resynced: [...lost, 'found out by comparing contents'],
  }[how];
  if (added.length > 0) parts.push(`${added.join(', ')} is not in ${id} and is copied in full`);
  if (removed.length > 0) parts.push(`${removed.join(', ')} of ${id} is no longer there`);
  return parts.join('; ');
}
