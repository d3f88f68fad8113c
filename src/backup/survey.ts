/**
 * What is known before a backup: the VM's disks with the health of their bitmaps, the points, and what the next one
 * will be. `inspect` shows it, a run begins with it. Leaves the VM as it was.
 */
import { lstat } from 'node:fs/promises';
import { join } from 'node:path';
import { QmpvaultError } from '../base/errors.ts';
import { type DiskName, newRunId, type PointId } from '../base/ids.ts';
import { ancestors, isSealedChain, newest } from '../vault/chain.ts';
import type { Manifest } from '../vault/manifest.ts';
import type { VmFolder } from '../vault/vm-folder.ts';
import { checkIdentities, type DrawPattern } from '../vm/bitmaps.ts';
import type { Disk, LeftOut } from '../vm/disks.ts';
import { runNode } from '../vm/run-names.ts';
import type { Vm } from '../vm/vm.ts';
import { candidates, flaw, healthOf, identityQuestion } from './bitmap-health.ts';
import type { NamedParent } from './engine.ts';
import { type BitmapHealth, type Plan, planBackup } from './plan.ts';

export interface SurveyedDisk {
  readonly disk: Disk;
  readonly bitmap: BitmapHealth;
}

export interface Survey {
  readonly disks: readonly SurveyedDisk[];
  readonly left: readonly LeftOut[];
  readonly points: readonly Manifest[];
  readonly plan: Plan;
  /** Points with a file that is missing or changed, and which. */
  readonly damaged: ReadonlyMap<PointId, string>;
  /** Why the disks have to be read without a snapshot; null: they have not. */
  readonly noSnapshot: string | null;
  readonly warnings: readonly string[];
}

/** A running VM, or the images of a stopped one, as nodes of a storage daemon. */
export type Surveyed = Pick<Vm, 'client' | 'uuid' | 'socket' | 'disks' | 'whyNoSnapshot' | 'whyNoExport'> & {
  readonly draw?: DrawPattern;
};

export interface SurveyWishes {
  readonly full?: boolean | undefined;
  readonly fullEvery: number;
  readonly parent?: NamedParent | undefined;
  readonly exclude?: readonly DiskName[] | undefined;
  readonly withoutSnapshot?: boolean | undefined;
  /** Why contents cannot be compared, where that showed itself only when it was tried. */
  readonly resyncTrouble?: string | undefined;
}

/** @throws vm-uuid, vm-unfit when no disk is left to back up, disk-unknown for an unknown `exclude` */
export async function survey(vm: Surveyed, folder: VmFolder, wishes: SurveyWishes): Promise<Survey> {
  const [{ disks: all, left }, listing] = await Promise.all([vm.disks(), folder.points()]);
  const { points, broken } = listing;
  refuseStranger(vm, folder, points);
  const { disks, excluded } = exclude(all, wishes.exclude ?? []);
  if (disks.length === 0) {
    throw new QmpvaultError(
      'vm-unfit',
      `the VM ${folder.name} has no disk to back up: ${left.map(({ name, why }) => `${name}: ${why}`).join('; ')}`,
    );
  }
  const noSnapshot = wishes.withoutSnapshot ? 'asked for' : await vm.whyNoSnapshot(disks);
  const resyncTrouble = wishes.resyncTrouble ?? noSnapshot;
  const [health, trouble] = await Promise.all([
    bitmapHealths(vm, disks, points),
    Promise.all(disks.map((disk) => resyncTrouble ?? vm.whyNoExport(disk))),
  ]);
  const damaged = await damagedPoints(folder, points, health, wishes.parent);
  const plan = planBackup({
    points,
    broken,
    disks: disks.map((disk, i) => ({
      name: disk.name,
      sizeBytes: disk.sizeBytes,
      bitmap: health[i] as BitmapHealth,
      resyncTrouble: trouble[i] ?? null,
    })),
    wishes: { full: wishes.full ?? false, fullEvery: wishes.fullEvery, parent: wishes.parent },
    damaged,
  });
  return {
    disks: disks.map((disk, i) => ({ disk, bitmap: health[i] as BitmapHealth })),
    left: [...left, ...excluded],
    points,
    plan,
    damaged,
    noSnapshot,
    warnings: broken.map(({ error }) => error.message),
  };
}

/** Another VM under the same name would be mixed into this one's points. */
export function refuseStranger(vm: Surveyed, folder: VmFolder, points: readonly Manifest[]): void {
  // What was backed up only while it was stopped has no UUID yet.
  const last = newest(points.filter((point) => point.vm.uuid !== ''));
  if (last === null || vm.uuid === '' || last.vm.uuid === vm.uuid) return;
  throw new QmpvaultError(
    'vm-uuid',
    `the points of ${folder.name} are of a VM with UUID ${last.vm.uuid}; the one on ${vm.socket} has ${vm.uuid}: back it up under another name`,
    { details: { vm: folder.name, known: last.vm.uuid, found: vm.uuid } },
  );
}

function exclude(disks: readonly Disk[], names: readonly DiskName[]): { disks: Disk[]; excluded: LeftOut[] } {
  const unknown = names.find((name) => !disks.some((disk) => disk.name === name));
  if (unknown !== undefined) {
    throw new QmpvaultError(
      'disk-unknown',
      `the VM has no disk '${unknown}'; it has ${disks.map((disk) => disk.name).join(', ')}`,
    );
  }
  return {
    disks: disks.filter((disk) => !names.includes(disk.name)),
    excluded: names.map((name) => ({ name, why: 'excluded by the caller' })),
  };
}

async function bitmapHealths(
  vm: Surveyed,
  disks: readonly Disk[],
  points: readonly Manifest[],
): Promise<BitmapHealth[]> {
  const run = newRunId();
  const found = disks.map(
    (disk) =>
      candidates(disk, points).find((candidate) => flaw(candidate) === null) ?? candidates(disk, points)[0],
  );
  const asked = found.flatMap((candidate, i) =>
    candidate === undefined || flaw(candidate) !== null ? [] : [{ candidate, i }],
  );
  const answers =
    asked.length === 0
      ? []
      : await checkIdentities(
          vm.client,
          asked.map(({ candidate, i }) => identityQuestion(candidate, runNode(run, 'pattern', i))),
          vm.draw,
        );
  const proved = new Map(asked.map(({ i }, nth) => [i, answers[nth]]));
  return found.map((candidate, i) => healthOf(candidate, proved.get(i), newest(points)));
}

/**
 * Points with files that are missing or have another length: nothing may be put on top of them. Looked at are the
 * chains on top of which the next point may come.
 */
async function damagedPoints(
  folder: VmFolder,
  points: readonly Manifest[],
  health: readonly BitmapHealth[],
  parent: NamedParent | undefined,
): Promise<Map<PointId, string>> {
  const last = newest(points);
  const tops = [
    ...(last === null ? [] : [last]),
    ...points.filter(({ id }) => id === parent?.point),
    ...health.flatMap((h) => (h.state === 'tracked' ? [h.point] : [])),
  ];
  const chains = tops
    .filter(({ id }) => !isSealedChain(points, id))
    .flatMap((top) => [top, ...ancestors(points, top.id)]);
  const damaged = new Map<PointId, string>();
  for (const point of new Set(chains)) {
    for (const disk of point.disks) {
      const path = join(folder.path, point.id, disk.file);
      const found = await lstat(path).catch(() => null);
      if (found === null) damaged.set(point.id, `${path} is missing`);
      else if (!found.isFile() || found.size !== disk.storedBytes) {
        damaged.set(point.id, `${path} has ${found.size} bytes, its manifest says ${disk.storedBytes}`);
      }
    }
  }
  return damaged;
}
