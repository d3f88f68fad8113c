/**
 * What the next backup will be, and why: a pure function of what is known. `inspect` prints it, a run carries it out.
 *
 * A disk's bitmap can be trusted only if it is the one that belongs to a published point of this VM in this vault,
 * is recording, and proved its identity. Everything else means that changes may be missing from it: then the
 * whole disk is read again.
 */
import type { BitmapName, DiskName } from '../base/ids.ts';
import { formatBytes } from '../base/units.ts';
import { chainLength, isSealedChain, newest } from '../vault/chain.ts';
import type { Manifest } from '../vault/manifest.ts';

/** What was found of a disk's bitmaps. `why` is a clause that fits behind the disk's name. */
export type BitmapHealth =
  | { readonly state: 'tracked'; readonly name: BitmapName; readonly point: Manifest }
  | { readonly state: 'lost'; readonly why: string };

export interface DiskFacts {
  readonly name: DiskName;
  readonly sizeBytes: number;
  readonly bitmap: BitmapHealth;
}

export interface Facts {
  /** Published points, oldest first. */
  readonly points: readonly Manifest[];
  /** Folders of points whose manifest cannot be read. */
  readonly broken: readonly { readonly id: string }[];
  readonly disks: readonly DiskFacts[];
  readonly wishes: { readonly full: boolean; readonly fullEvery: number };
  /** What is wrong with the files of the newest point's chain; null: nothing was found. */
  readonly chainTrouble: string | null;
}

export type FullReason = 'first' | 'requested' | 'cadence' | 'chain-sealed' | 'disks-changed' | 'bitmap-lost';

export type Plan =
  | { readonly kind: 'full'; readonly how: FullReason; readonly why: string }
  | {
      readonly kind: 'incremental';
      readonly how: 'tracked';
      readonly why: string;
      readonly parent: Manifest;
      readonly bitmaps: ReadonlyMap<DiskName, BitmapName>;
    };

export function planBackup({ points, broken, disks, wishes, chainTrouble }: Facts): Plan {
  const full = (how: FullReason, why: string): Plan => ({ kind: 'full', how, why });
  const parent = newest(points);
  if (parent === null) {
    return broken.length === 0
      ? full('first', 'there is no restore point of this VM yet')
      : full(
          'chain-sealed',
          `no manifest of this VM's points can be read (${broken.map(({ id }) => id).join(', ')})`,
        );
  }
  if (wishes.full) return full('requested', 'a full was asked for');
  if (isSealedChain(points, parent.id))
    return full(
      'chain-sealed',
      `the chain of ${parent.id} is sealed, or a point in it is missing or damaged`,
    );
  if (chainTrouble !== null)
    return full('chain-sealed', `the chain of ${parent.id} cannot be built on: ${chainTrouble}`);

  const length = chainLength(points, parent.id);
  if (length >= wishes.fullEvery) {
    return full(
      'cadence',
      `the chain has ${length} point${length === 1 ? '' : 's'}, and a full is due every ${wishes.fullEvery}`,
    );
  }
  const changed = disksChanged(parent, disks);
  if (changed !== null) return full('disks-changed', changed);

  const bitmaps = new Map<DiskName, BitmapName>();
  for (const { name, bitmap } of disks) {
    if (bitmap.state === 'lost')
      return full('bitmap-lost', `changes of ${name} since ${parent.id} are unknown: ${bitmap.why}`);
    if (bitmap.point.id !== parent.id) {
      return full(
        'bitmap-lost',
        `the bitmap of ${name} belongs to ${bitmap.point.id}, not to the newest point ${parent.id}: was the disk rolled back?`,
      );
    }
    bitmaps.set(name, bitmap.name);
  }
  const why = `changes since ${parent.id} are tracked on all disks`;
  return { kind: 'incremental', how: 'tracked', why, parent, bitmaps };
}

/** How the set of disks differs from that of the parent point, in words; null: it fits. A grown disk fits. */
function disksChanged(parent: Manifest, disks: readonly DiskFacts[]): string | null {
  const now = new Map(disks.map((disk) => [disk.name as string, disk]));
  const before = new Map(parent.disks.map((disk) => [disk.name as string, disk]));
  const added = [...now.keys()].filter((name) => !before.has(name));
  const removed = [...before.keys()].filter((name) => !now.has(name));
  if (added.length > 0) return `${added.join(', ')} was not in ${parent.id}`;
  if (removed.length > 0) return `${removed.join(', ')} of ${parent.id} is no longer there`;
  for (const [name, { sizeBytes }] of now) {
    const then = before.get(name)?.virtualSizeBytes ?? 0;
    if (sizeBytes < then) return `${name} shrank from ${formatBytes(then)} to ${formatBytes(sizeBytes)}`;
  }
  return null;
}
