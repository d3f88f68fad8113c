/** What goes wrong: each is put at a named step of the engine, and counts only if it happened there. */
import { strict as assert } from 'node:assert';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import fc from 'fast-check';
import { until } from '../../src/base/deadline.ts';
import { codeOf } from '../../src/base/errors.ts';
import type { Step } from '../../src/base/steps.ts';
import { KiB } from '../../src/base/units.ts';
import { deletePoint } from '../../src/upkeep/delete.ts';
import { growTmpfs, usedBytes } from '../helpers/small-tmpfs.ts';
import { signalIfThere } from '../helpers/temp-dir.ts';
import { runStep, vaultOf, type Wishes, wishes } from './backing-up.ts';
import { chosen, kind, type Outcome, writeOn, writes } from './kind.ts';
import { attempt, doubt, firedAt } from './trouble.ts';
import { pointWish, removesOf, settleAfterChange } from './vault-kinds.ts';
import { NAS_BYTES, VM, type World } from './world.ts';

/** Steps at which the writer is there. */
const writerStep: fc.Arbitrary<Step> = fc.constantFrom(
  'bitmaps',
  'moment',
  'jobs',
  'targets',
  'copying',
  'copied',
);

export const faultKinds = {
  killVm: kind({
    weight: 4,
    parameters: fc.record({ flush: fc.boolean() }),
    async perform(world, { flush }) {
      if (flush) for (const { spec } of world.attached) await world.vm.flush(spec.name);
      await world.vm.kill();
      if (!flush) await takeOver(world);
      await world.startVm();
      return 'done';
    },
  }),

  killVmInBackup: kind({
    weight: 4,
    parameters: fc.record({ wishes, step: runStep, before: writes(3) }),
    async perform(world, { wishes, step, before }) {
      await writeOn(world, before);
      let fired = false;
      const outcome = await attempt(world, wishes, ['vm-lost'], {
        at: async (reached) => {
          if (reached !== step || fired) return;
          fired = true;
          await world.vm.kill();
          await takeOver(world);
        },
      });
      if (fired) {
        await world.startVm();
        // Once it is out of the VM, a run does without it.
        if (outcome === null) assert.ok(['synced', 'publish', 'published'].includes(step), step);
        vaultOf(world, wishes.vault).isUnsettled = true;
      }
      return firedAt(world, step, fired);
    },
  }),

  killWriter: kind({
    weight: 4,
    parameters: fc.record({ wishes, step: writerStep, before: writes(3) }),
    perform: (world, { wishes, step, before }) =>
      signalWriter(world, { wishes, step, before, signal: 'SIGKILL' }),
  }),

  stopWriter: kind({
    weight: 4,
    parameters: fc.record({ wishes, step: writerStep, before: writes(3) }),
    perform: (world, { wishes, step, before }) =>
      signalWriter(world, { wishes, step, before, signal: 'SIGSTOP' }),
  }),

  cancelBackup: kind({
    weight: 4,
    parameters: fc.record({ wishes, step: runStep, before: writes(3) }),
    async perform(world, { wishes, step, before }) {
      await writeOn(world, before);
      const controller = new AbortController();
      let fired = false;
      await attempt(world, wishes, ['cancelled'], {
        signal: controller.signal,
        at: async (reached) => {
          if (reached !== step) return;
          fired = true;
          controller.abort();
        },
      });
      return firedAt(world, step, fired);
    },
  }),

  fillVaultInBackup: kind({
    weight: 8,
    parameters: fc.record({
      wishes,
      full: fc.boolean(),
      freeKiB: fc.integer({ min: 0, max: 1500 }),
      step: runStep,
      before: writes(4),
    }),
    async perform(world, { wishes, full, freeKiB, step, before }) {
      await writeOn(world, before);
      let isFull = false;
      const at = async (reached: Step) => {
        if (reached !== step) return;
        isFull = true;
        await leaveFree(world, freeKiB);
      };
      try {
        const error = await attempt(world, wishes, ['vault-full'], { full, at });
        return firedAt(world, step, error !== null || (isFull && step === 'published'));
      } finally {
        growTmpfs(world.nas, NAS_BYTES);
      }
    },
  }),

  fillVaultInDelete: kind({
    weight: 10,
    parameters: fc.record({ wish: pointWish, freeKiB: fc.integer({ min: 0, max: 400 }) }),
    async perform(world, { wish, freeKiB }) {
      const model = vaultOf(world, wish.vault);
      const point = chosen([...model.points.keys()], wish.point);
      if (point === undefined) return 'passed';
      const removes = (await removesOf(world, model, point, 'keep')) ?? [];
      await leaveFree(world, freeKiB);
      try {
        await deletePoint(world.engine, model.vault, { vm: VM, point, descendants: 'keep' });
        settleAfterChange(model, removes);
        return 'passed';
      } catch (error) {
        if (codeOf(error) !== 'vault-full') throw error;
        doubt(model, removes);
        return 'done';
      } finally {
        growTmpfs(world.nas, NAS_BYTES);
      }
    },
  }),

  /** And is mounted somewhere else when the run has failed. */
  moveVaultInBackup: kind({
    weight: 4,
    parameters: fc.record({ wishes, step: runStep, before: writes(2) }),
    async perform(world, { wishes, step, before }) {
      const model = vaultOf(world, wishes.vault);
      await writeOn(world, before);
      let fired = false;
      const error = await attempt(
        world,
        wishes,
        ['vault-away', 'vault-unreadable', 'lease-lost', 'run-failed', 'image-tool-failed', 'image-invalid'],
        {
          at: async (reached) => {
            if (reached !== step || fired) return;
            fired = true;
            await world.moveVault(model);
          },
        },
      );
      if (fired) {
        model.isUnsettled = true;
        // To other processes the lease that could not be released lasts out its term.
        await (await world.folder(model).acquireLease({ what: 'a look', leaveChange: true })).release();
      }
      if (fired && error === null) assert.equal(step, 'published');
      return firedAt(world, step, fired);
    },
  }),
};

interface WriterSignal {
  readonly wishes: Wishes;
  readonly step: Step;
  readonly before: Parameters<typeof writeOn>[1];
  readonly signal: 'SIGKILL' | 'SIGSTOP';
}

async function signalWriter(world: World, { wishes, step, before, signal }: WriterSignal): Promise<Outcome> {
  await writeOn(world, before);
  let fired = false;
  await attempt(world, wishes, ['writer-failed', 'run-failed', 'run-stalled', 'qmp-command'], {
    noProgressMs: 500,
    at: async (reached) => {
      if (reached !== step || fired) return;
      for (const pid of await writers(world)) {
        fired = true;
        signalIfThere(pid, signal);
      }
    },
  });
  return firedAt(world, step, fired);
}

async function writers({ engine }: World): Promise<number[]> {
  const folders = await readdir(engine.runtimeDir).catch(() => []);
  const pids = await Promise.all(
    folders.map((folder) => readFile(join(engine.runtimeDir, folder, 'pid'), 'latin1').catch(() => '')),
  );
  return pids.filter((pid) => pid !== '').map((pid) => Number(pid.split(' ')[0]));
}

/** No more than that is left in the vaults' filesystem, until it is grown again. */
async function leaveFree({ nas }: World, freeKiB: number): Promise<void> {
  // It cannot be made smaller than what is being written meanwhile.
  const shrink = async () => growTmpfs(nas, (await usedBytes(nas)) + freeKiB * KiB);
  await until(
    () =>
      shrink().then(
        () => true,
        () => undefined,
      ),
    { what: 'a full filesystem' },
  );
}

/** After a kill the disks hold what reached the images: nobody can have relied on the rest. */
async function takeOver(world: World): Promise<void> {
  for (const disk of world.attached) disk.content = await world.read(disk.spec.name);
}
