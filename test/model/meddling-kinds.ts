/** What others do to a VM in the middle of a backup, or to our bitmaps in it. */
import fc from 'fast-check';
import { backUp } from '../../src/backup/backup.ts';
import { codeOf } from '../../src/base/errors.ts';
import type { Step } from '../../src/base/steps.ts';
import { note, stoppedRequest, vault, vaultOf, wishes } from './backing-up.ts';
import { snapshotOf, withoutSpare } from './guest-kinds.ts';
import { choice, chosen, kind, type Outcome, writeOn, writes } from './kind.ts';
import { Tally } from './tally.ts';
import { attempt, firedAt } from './trouble.ts';

export const meddlingKinds = {
  /** Removed, removed and added again, cleared or disabled: it no longer tells what changed. */
  tamperWithBitmap: kind({
    weight: 8,
    parameters: fc.record({
      disk: choice,
      how: fc.constantFrom('remove' as const, 'add' as const, 'clear' as const, 'disable' as const),
      between: writes(2),
      after: writes(2),
    }),
    async perform(world, { disk: choice, how, between, after }): Promise<Outcome> {
      const { qmp } = world.vm;
      const { bitmaps } = await world.vm.leftovers();
      // Those without a name are QEMU's own, of a job at work.
      const usable = bitmaps.filter(({ name, busy, inconsistent }) => name !== '' && !busy && !inconsistent);
      const disk = chosen(
        world.attached.filter(({ node }) => usable.some((bitmap) => bitmap.node === node)),
        choice,
      );
      if (!disk) return 'passed';
      for (const { node, name, persistent, granularityBytes: granularity } of usable) {
        if (node !== disk.node) continue;
        if (how === 'clear') await qmp.execute('block-dirty-bitmap-clear', { node, name });
        if (how === 'disable') await qmp.execute('block-dirty-bitmap-disable', { node, name });
        if (how === 'remove' || how === 'add') await qmp.execute('block-dirty-bitmap-remove', { node, name });
        await writeOn(world, between);
        if (how === 'add')
          await qmp.execute('block-dirty-bitmap-add', { node, name, persistent, granularity });
      }
      await writeOn(world, after);
      return 'done';
    },
  }),

  snapshotInBackup: kind({
    weight: 4,
    parameters: fc.record({
      wishes,
      step: fc.constantFrom<Step>(
        'scratch',
        'bitmaps',
        'moment',
        'jobs',
        'copying',
        'copied',
        'synced',
        'published',
      ),
      disk: choice,
    }),
    async perform(world, { wishes, step, disk: choice }) {
      const disk = chosen(withoutSpare(world), choice);
      if (!disk || disk.images.length > 2) return 'passed';
      let fired = false;
      await attempt(world, wishes, ['run-overtaken', 'run-failed', 'qmp-command'], {
        at: async (reached) => {
          if (reached !== step || fired) return;
          fired = await snapshotOf(world, disk);
        },
      });
      return firedAt(world, step, fired);
    },
  }),

  /** The VM starts while its images are read; if it writes, the run was in vain. */
  startInBackupOfStopped: kind({
    weight: 4,
    parameters: fc.record({
      vault,
      step: fc.constantFrom<Step>('staging', 'jobs', 'copying', 'copied', 'identity', 'publish', 'published'),
      writes: fc.option(writes(2)),
    }),
    async perform(world, { vault: choice, step, writes }) {
      const model = vaultOf(world, choice);
      await world.vm.quit();
      const before = world.contents();
      let fired = false;
      const reachStep = async (reached: Step) => {
        if (reached !== step || fired) return;
        fired = true;
        await world.startVm();
        if (writes !== null) await writeOn(world, writes);
      };
      const request = stoppedRequest(world, { fullEvery: 6, named: true });
      try {
        const { point } = await backUp({ ...world.engine, reachStep }, model.vault, request, {});
        // Until a late step it can only have been published if nothing was written.
        note(world, model, point, before);
      } catch (error) {
        if (!fired || !['run-overtaken', 'vm-busy'].includes(codeOf(error))) throw error;
        Tally.count(world.tally.ends, codeOf(error));
      }
      // What is in the images of a running VM its next run removes.
      model.isUnsettled = true;
      return firedAt(world, step, fired);
    },
  }),
};
