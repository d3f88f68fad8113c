/** Backups with everything that may happen during one, and what the shadow learns of them. */
import { strict as assert } from 'node:assert';
import fc from 'fast-check';
import { backUp } from '../../src/backup/backup.ts';
import type { BackupRequest } from '../../src/backup/engine.ts';
import type { DiskName } from '../../src/base/ids.ts';
import { STEPS, type Step } from '../../src/base/steps.ts';
import type { Manifest } from '../../src/vault/manifest.ts';
import { chosen, type Write, write, writeOn } from './kind.ts';
import { Tally } from './tally.ts';
import { type Contents, type ModelVault, VM, type World } from './world.ts';

/** Holes are looked for on larger disks than these. */
const RUN_STEPS: readonly Step[] = STEPS.backup.filter((step) => step !== 'holes');
export const runStep = fc.constantFrom(...RUN_STEPS);
/** Where the guest writes while it is backed up. While it is paused, it cannot. */
const WRITE_STEPS = RUN_STEPS.filter((step) => !['frozen', 'stopped', 'inserted'].includes(step));

export interface Wishes {
  readonly vault: number;
  readonly fullEvery: number;
  readonly during: readonly { readonly step: Step; readonly write: Write }[];
}

/** The second one is for one in five. */
export const vault: fc.Arbitrary<number> = fc.oneof(
  { weight: 4, arbitrary: fc.constant(0) },
  { weight: 1, arbitrary: fc.constant(1) },
);

export const wishes: fc.Arbitrary<Wishes> = fc.record({
  vault,
  fullEvery: fc.constantFrom(3, 6, 20),
  during: fc.array(fc.record({ step: fc.constantFrom(...WRITE_STEPS), write }), { maxLength: 4 }),
});

export function vaultOf({ vaults }: World, choice: number): ModelVault {
  const vault = chosen(vaults, choice);
  if (vault === undefined) throw new Error('there is no vault');
  return vault;
}

export interface Special extends Partial<BackupRequest> {
  readonly signal?: AbortSignal;
  /** Done at each step, before the guest writes. */
  readonly at?: (step: Step) => Promise<void>;
}

/** A backup of the running VM, into the vault and into the shadow. @throws what it ended with */
export async function backUpRunning(
  world: World,
  { vault: choice, fullEvery, during }: Wishes,
  { signal, at, ...special }: Special = {},
): Promise<Manifest> {
  const model = vaultOf(world, choice);
  let moment: Contents | null = null;
  const reachStep = async (step: Step) => {
    // Nothing is written between this step and the moment.
    if (step === 'frozen') moment = world.contents();
    await at?.(step);
    if (world.vm.isAlive)
      await writeOn(
        world,
        during.flatMap((one) => (one.step === step ? [one.write] : [])),
      );
  };
  const request = { vm: VM, qmp: world.vm.qmpSocket, quiesce: 'auto', fullEvery, ...special } as const;
  const { point } = await backUp({ ...world.engine, reachStep }, model.vault, request, { signal });
  assert.ok(moment !== null, 'there was a moment');
  note(world, model, point, moment);
  const names = point.disks.map(({ name }) => name as string);
  const attached = world.attached.map(({ spec }) => spec.name);
  assert.deepEqual(names.toSorted(), attached.toSorted(), 'a point has all disks of the VM');
  return point;
}

/** What the engine is asked for while the VM is stopped. @param wishes.named whether its images are, or are left to be remembered */
export function stoppedRequest(
  world: World,
  { fullEvery, named }: { fullEvery: number; named: boolean },
): BackupRequest {
  const images = new Map(
    world.attached.map((disk) => [disk.spec.name as DiskName, world.imageOf(disk).path]),
  );
  return { vm: VM, qmp: world.vm.qmpSocket, quiesce: 'auto', fullEvery, ...(named && { images }) };
}

export function note(world: World, model: ModelVault, point: Manifest, moment: Contents): void {
  model.points.set(point.id, moment);
  model.isFresh = true;
  settle(model);
  Tally.count(world.tally.points, point.how);
}

/** A run whose engine was killed may have been finished since: its point shows the moment of that run. */
export async function meetFinished(world: World, model: ModelVault): Promise<void> {
  const { points, dead } = model;
  if (dead.size === 0) return;
  for (const { id, run } of (await world.folder(model).points()).points) {
    const moment = dead.get(run);
    if (moment !== undefined && !points.has(id)) points.set(id, moment);
  }
  const byAge = [...points].toSorted(([a], [b]) => (a < b ? -1 : 1));
  points.clear();
  for (const [id, moment] of byAge) points.set(id, moment);
}

/** Whoever took the lease and ended in order has cleared up after the dead. */
export function settle(model: ModelVault): void {
  model.isUnsettled = false;
  model.doubtful.clear();
}
