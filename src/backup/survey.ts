/**
 * What is known before a backup: the VM's disks with the health of their bitmaps, the points, and what the next one
 * will be. `inspect` shows it, a run begins with it. Leaves the VM as it was.
 */
import { lstat } from 'node:fs/promises';
import { join } from 'node:path';
import { QmpvaultError } from '../base/errors.ts';
import { type DiskName, newRunId } from '../base/ids.ts';
import { ancestors, isSealedChain, newest } from '../vault/chain.ts';
import type { Manifest } from '../vault/manifest.ts';
import type { VmFolder } from '../vault/vm-folder.ts';
import { checkIdentities } from '../vm/bitmaps.ts';
import type { Disk, LeftOut } from '../vm/disks.ts';
import { runNode } from '../vm/run-names.ts';
import type { Vm } from '../vm/vm.ts';
import { candidates, flaw, healthOf, identityQuestion } from './bitmap-health.ts';
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
  readonly warnings: readonly string[];
}

export interface SurveyWishes {
  readonly full?: boolean | undefined;
  readonly fullEvery: number;
  readonly exclude?: readonly DiskName[] | undefined;
}

/** @throws vm-uuid, vm-unfit when no disk is left to back up, disk-unknown for an unknown `exclude` */
export async function survey(vm: Vm, folder: VmFolder, wishes: SurveyWishes): Promise<Survey> {
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
  const [health, chainTrouble] = await Promise.all([
    bitmapHealths(vm, disks, points),
    troubleWithChain(folder, points),
  ]);
  const plan = planBackup({
    points,
    broken,
    disks: disks.map((disk, i) => ({
      name: disk.name,
      sizeBytes: disk.sizeBytes,
      bitmap: health[i] as BitmapHealth,
    })),
    wishes: { full: wishes.full ?? false, fullEvery: wishes.fullEvery },
    chainTrouble,
  });
  return {
    disks: disks.map((disk, i) => ({ disk, bitmap: health[i] as BitmapHealth })),
    left: [...left, ...excluded],
    points,
    plan,
    warnings: broken.map(({ error }) => error.message),
  };
}

/** Another VM under the same name would be mixed into this one's points. */
function refuseStranger(vm: Vm, folder: VmFolder, points: readonly Manifest[]): void {
  const last = newest(points);
  if (last === null || last.vm.uuid === vm.uuid) return;
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
  vm: Vm,
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
        );
  const proved = new Map(asked.map(({ i }, nth) => [i, answers[nth]]));
  return found.map((candidate, i) => healthOf(candidate, proved.get(i), newest(points)));
}

/** Files of the newest point's chain that are missing or have another length: nothing may be put on top of them. */
async function troubleWithChain(folder: VmFolder, points: readonly Manifest[]): Promise<string | null> {
  const last = newest(points);
  if (last === null || isSealedChain(points, last.id)) return null;
  const files = [last, ...ancestors(points, last.id)].flatMap((point) =>
    point.disks.map((disk) => ({ point, disk })),
  );
  for (const { point, disk } of files) {
    const path = join(folder.path, point.id, disk.file);
    const found = await lstat(path).catch(() => null);
    if (found === null) return `${path} is missing`;
    if (!found.isFile() || found.size !== disk.storedBytes)
      return `${path} has ${found.size} bytes, its manifest says ${disk.storedBytes}`;
  }
  return null;
}
