/** What is done with backups: made, deleted, verified, restored. */
import { strict as assert } from 'node:assert';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import fc from 'fast-check';
import { backUp } from '../../src/backup/backup.ts';
import { codeOf } from '../../src/base/errors.ts';
import type { DiskName, PointId } from '../../src/base/ids.ts';
import { restoreInPlace } from '../../src/restore/in-place.ts';
import { restorePoint } from '../../src/restore/restore.ts';
import { deletePoint } from '../../src/upkeep/delete.ts';
import type { Descendants } from '../../src/upkeep/delete-plan.ts';
import { prune } from '../../src/upkeep/prune.ts';
import { verify } from '../../src/upkeep/verify.ts';
import { ancestors, descendants } from '../../src/vault/chain.ts';
import type { Manifest } from '../../src/vault/manifest.ts';
import { backUpRunning, note, runStep, stoppedRequest, vault, vaultOf, wishes } from './backing-up.ts';
import { Content } from './content.ts';
import { choice, chosen, kind, type Outcome } from './kind.ts';
import { type ModelDisk, type ModelVault, VM, type World } from './world.ts';

export const pointWish = fc.record({ vault, point: choice });

export const vaultKinds = {
  backup: kind({
    weight: 20,
    parameters: wishes,
    async perform(world, wishes) {
      await backUpRunning(world, wishes);
      return 'done';
    },
  }),

  full: kind({
    weight: 5,
    parameters: wishes,
    async perform(world, wishes) {
      const point = await backUpRunning(world, wishes, { full: true });
      assert.equal(point.kind, 'full');
      return 'done';
    },
  }),

  /** The second vault knows nothing of the first. */
  backupElsewhere: kind({
    weight: 5,
    parameters: wishes,
    async perform(world, wishes) {
      await backUpRunning(world, { ...wishes, vault: 1 });
      return 'done';
    },
  }),

  /** As with a QEMU that has no copy-before-write. */
  backupWithoutSnapshot: kind({
    weight: 5,
    parameters: wishes,
    async perform(world, wishes) {
      await backUpRunning(world, wishes, { withoutSnapshot: true });
      return 'done';
    },
  }),

  backupPaused: kind({
    weight: 5,
    parameters: wishes,
    async perform(world, wishes) {
      await world.vm.stop();
      await backUpRunning(world, { ...wishes, during: [] });
      const { status } = (await world.vm.qmp.execute('query-status')) as { status: string };
      assert.equal(status, 'paused', 'a VM that its operator paused stays paused');
      await world.vm.cont();
      return 'done';
    },
  }),

  backupStopped: kind({
    weight: 6,
    parameters: fc.record({ vault, fullEvery: fc.constantFrom(3, 6, 20), named: fc.boolean() }),
    async perform(world, { named, ...wishes }): Promise<Outcome> {
      await world.vm.quit();
      try {
        const model = vaultOf(world, wishes.vault);
        const { point } = await backUp(
          world.engine,
          model.vault,
          stoppedRequest(world, { ...wishes, named }),
          {},
        );
        note(world, model, point, world.contents());
        return 'done';
      } catch (error) {
        if (named || !(await mayNotKnowImages(world, vaultOf(world, wishes.vault), error))) throw error;
        return 'passed';
      } finally {
        await world.startVm();
      }
    },
  }),

  /** Restores and verifications go on beside it, and nobody else may change the points. */
  useVaultInBackup: kind({
    weight: 6,
    parameters: fc.record({ wishes, step: runStep, point: choice }),
    async perform(world, { wishes, step, point: choice }) {
      const model = vaultOf(world, wishes.vault);
      const point = chosen([...model.points.keys()], choice);
      if (point === undefined) return 'passed';
      let used = false;
      await backUpRunning(world, wishes, {
        at: async (reached) => {
          // In the pause the guest waits for whatever is done here.
          if (reached !== step || used || ['frozen', 'stopped', 'inserted'].includes(step)) return;
          used = true;
          await restoreAndCompare(world, model, point);
          const request = { vm: VM, point, descendants: 'keep' } as const;
          await assert.rejects(deletePoint(world.engine, model.vault, request), { code: 'vault-locked' });
        },
      });
      return used ? 'done' : 'passed';
    },
  }),

  delete: kind({
    weight: 8,
    parameters: pointWish,
    perform: (world, wish) => deleteOne(world, wish, 'refuse'),
  }),

  deleteKeepingDescendants: kind({
    weight: 6,
    parameters: pointWish,
    perform: (world, wish) => deleteOne(world, wish, 'keep'),
  }),

  deleteWithDescendants: kind({
    weight: 6,
    parameters: pointWish,
    perform: (world, wish) => deleteOne(world, wish, 'delete'),
  }),

  prune: kind({
    weight: 6,
    parameters: fc.record({
      vault,
      keepLast: fc.integer({ min: 1, max: 8 }),
      maxChain: fc.option(fc.integer({ min: 1, max: 4 }), { nil: undefined }),
    }),
    async perform(world, { vault: choice, keepLast, maxChain }) {
      const model = vaultOf(world, choice);
      if (model.points.size === 0) return 'passed';
      const newest = [...model.points.keys()].slice(-keepLast);
      const request = { vm: VM, keep: { last: keepLast }, timeZone: 'UTC', maxChain };
      const { removed } = await prune(world.engine, model.vault, request);
      settleAfterChange(model, removed);
      const { points } = await world.folder(model).points();
      if (maxChain === undefined) {
        assert.deepEqual(
          points.map(({ id }) => id),
          newest,
          'the newest points are kept, and no others',
        );
      } else {
        const line = (point: Manifest) => ancestors(points, point.id).length + 1;
        assert.ok(
          points.every((point) => line(point) <= maxChain),
          `no chain is longer than ${maxChain}`,
        );
        assert.equal(points.at(-1)?.id, newest.at(-1), 'the newest point is kept');
      }
      return 'done';
    },
  }),

  verifyQuick: kind({
    weight: 5,
    parameters: fc.record({ vault }),
    perform: (world, { vault }) => verifyAll(world, vaultOf(world, vault), 'quick'),
  }),

  verifyDeep: kind({
    weight: 5,
    parameters: fc.record({ vault }),
    perform: (world, { vault }) => verifyAll(world, vaultOf(world, vault), 'deep'),
  }),

  restore: kind({
    weight: 5,
    parameters: pointWish,
    async perform(world, wish) {
      const model = vaultOf(world, wish.vault);
      const point = chosen([...model.points.keys()], wish.point);
      if (point === undefined) return 'passed';
      await restoreAndCompare(world, model, point);
      return 'done';
    },
  }),

  /** The VM goes on from the point. */
  restoreIntoVm: kind({
    weight: 6,
    parameters: fc.record({ wish: pointWish, only: fc.option(choice) }),
    async perform(world, { wish, only }) {
      const model = vaultOf(world, wish.vault);
      const point = chosen([...model.points.keys()], wish.point);
      if (point === undefined) return 'passed';
      const { points } = await world.folder(model).points();
      const names = points.find(({ id }) => id === point)?.disks.map(({ name }) => name) ?? [];
      const there = names.filter((name) => world.attached.some(({ spec }) => spec.name === name));
      const wanted = only === null ? there : there.slice(only % Math.max(1, there.length)).slice(0, 1);
      if (wanted.length === 0) return 'passed';
      await world.vm.quit();
      for (const name of wanted) await restoreInto(world, model, point, name);
      await world.startVm();
      return 'done';
    },
  }),

  /** As restoreIntoVm, but where the images are is left to the engine. It knows that of the last backup. */
  restoreInPlace: kind({
    weight: 6,
    parameters: fc.record({ wish: pointWish, keepOld: fc.boolean() }),
    async perform(world, { wish, keepOld }) {
      const model = vaultOf(world, wish.vault);
      const point = chosen([...model.points.keys()], wish.point);
      const record = await world.folder(model).readRecord();
      const isKnown = record?.disks.every(
        ({ name, image }) => world.imageOf(world.disk(name)).path === image,
      );
      if (point === undefined || !isKnown) return 'passed';
      await world.vm.quit();
      const { restored, kept } = await restoreInPlace(world.engine, model.vault, { vm: VM, point, keepOld });
      for (const { disk: name } of restored) {
        const disk = world.disk(name);
        const images = [world.imageOf(disk)];
        await world.removeOthers(disk, images);
        world.consistsOf(disk, images);
        disk.content = world.truthOf(model, point, name);
      }
      assert.equal(kept.length, keepOld ? restored.length : 0);
      for (const path of kept) await rm(path);
      await world.startVm();
      return 'done';
    },
  }),

  moveVault: kind({
    weight: 5,
    parameters: fc.record({ vault }),
    async perform(world, { vault: choice }) {
      const model = vaultOf(world, choice);
      const before = model.vault;
      await world.moveVault(model);
      await assert.rejects(before.assertPresent(), { code: 'vault-away' }, 'where it was, it is missed');
      return 'done';
    },
  }),
};

async function restoreAndCompare(world: World, model: ModelVault, point: PointId): Promise<void> {
  const dir = join(world.lab, world.newName('restored'));
  const request = { vm: VM, point, target: { dir }, format: 'raw' } as const;
  const { restored } = await restorePoint(world.engine.tools, model.vault, request);
  for (const { disk, path } of restored) {
    const difference = world.truthOf(model, point, disk).differenceTo(await Content.ofRaw(path));
    assert.equal(difference, null, `${disk} of ${point} is restored as it was`);
    world.tally.comparisons += 1;
  }
  await rm(dir, { recursive: true });
}

/** Of a VM that was never backed up to this vault nothing is remembered, and images that changed since are the wrong ones. */
async function mayNotKnowImages(world: World, model: ModelVault, error: unknown): Promise<boolean> {
  if (codeOf(error) === 'usage' || codeOf(error) === 'vm-unreachable') return model.points.size === 0;
  const known = (await world.folder(model).readRecord())?.disks ?? [];
  const isKnown = (disk: ModelDisk) =>
    known.some(({ name, image }) => name === disk.spec.name && image === world.imageOf(disk).path);
  return codeOf(error) === 'vm-unfit' && !world.attached.every(isKnown);
}

async function deleteOne(
  world: World,
  wish: { vault: number; point: number },
  how: Descendants,
): Promise<Outcome> {
  const model = vaultOf(world, wish.vault);
  const point = chosen([...model.points.keys()], wish.point);
  if (point === undefined) return 'passed';
  const removes = await removesOf(world, model, point, how);
  const request = { vm: VM, point, descendants: how };
  if (removes === null) {
    const refusal = { code: 'points-would-be-lost' };
    await assert.rejects(deletePoint(world.engine, model.vault, request), refusal, 'a full that others need');
    settleAfterChange(model, []);
    return 'passed';
  }
  const { removed } = await deletePoint(world.engine, model.vault, request);
  assert.deepEqual(removed.toSorted(), removes.toSorted(), 'what was asked for is deleted, and nothing else');
  settleAfterChange(model, removed);
  return 'done';
}

/** null: it is refused. */
export async function removesOf(
  world: World,
  model: ModelVault,
  point: PointId,
  how: Descendants,
): Promise<PointId[] | null> {
  const { points } = await world.folder(model).points();
  const needing = descendants(points, point);
  if (how === 'delete') return [point, ...needing.map(({ id }) => id)];
  const isFull = points.find(({ id }) => id === point)?.parent === null;
  return how === 'refuse' && isFull && needing.length > 0 ? null : [point];
}

/** What of a dead backup is in the VM stays there until the next one. */
export function settleAfterChange(model: ModelVault, removed: readonly PointId[]): void {
  for (const id of removed) model.points.delete(id);
}

async function verifyAll(world: World, model: ModelVault, level: 'quick' | 'deep'): Promise<Outcome> {
  if (model.points.size === 0) return 'passed';
  const { checked, damaged, warnings } = await verify(world.engine, model.vault, { vm: VM, level });
  assert.deepEqual({ damaged, warnings }, { damaged: [], warnings: [] }, 'nothing is damaged');
  assert.ok(checked <= model.points.size && checked >= model.points.size - model.doubtful.size);
  return 'done';
}

async function restoreInto(world: World, model: ModelVault, point: PointId, name: DiskName): Promise<void> {
  const disk = world.disk(name);
  const image = world.imageOf(disk);
  const target = { disks: new Map([[name, image.path]]) };
  const request = { vm: VM, point, target, format: image.format, force: true };
  await restorePoint(world.engine.tools, model.vault, request);
  await world.removeOthers(disk, [image]);
  world.consistsOf(disk, [image]);
  disk.content = world.truthOf(model, point, name);
}
