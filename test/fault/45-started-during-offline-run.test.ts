/** Row 45: the VM starts while its images are backed up. It starts at any step, and no point misses a write. */

import { join } from 'node:path';
import t, { type Test } from 'tap';
import type { Step } from '../../src/base/steps.ts';
import { MiB } from '../../src/base/units.ts';
import { type FixtureVm, type QemuVersion, qemuBin } from '../../vm-fixtures/guestless.ts';
import { backUpWithTruth, expectClean, expectTruth, type TestSite, testSite } from '../helpers/engine.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { expectCleanImages } from '../helpers/stopped.ts';
import { testVm } from '../helpers/vm.ts';

/** The steps of an offline run at which no image is locked. */
const STEPS = ['staging', 'jobs', 'copying', 'copied', 'identity', 'publish', 'published'];
/** From here on it does not matter to the point what the VM does. */
const TOO_LATE = ['publish', 'published'];

for (const qemu of qemuVersions(['7.2', '11.1'])) {
  t.test(
    `QEMU ${qemu}: a VM that starts during an offline run and writes ends it, and loses nothing`,
    async (t) => {
      const { vm, site, change } = await begin(t, qemu);
      const points = [await backUpWithTruth(site, vm)];
      for (const [nth, step] of STEPS.entries()) {
        // Every other one goes on running; the rest has ended before the run looks again.
        const stays = nth % 2 === 0;
        await change(nth + 1);
        await vm.quit();
        let fired = false;
        const steps = async (reached: Step) => {
          if (reached !== step || fired) return;
          fired = true;
          await vm.restart();
          await change(nth + 101);
          if (!stays) await vm.quit();
        };
        const made = site.backUp(vm, { fullEvery: 99, steps });
        if (TOO_LATE.includes(step)) await made;
        else if (step === 'staging') {
          // Before the new bitmaps: what was written is simply in the point.
          if (stays) await t.rejects(made, { code: 'vm-busy' }, step);
          else await made;
        } else await t.rejects(made, { code: 'run-overtaken' }, step);
        t.ok(fired, `${step}: the VM started and wrote`);
        const next = await backUpWithTruth(site, vm, { fullEvery: 99 });
        t.equal(next.how, 'tracked', `${step}: the next is tracked`);
        await expectTruth(t, site, vm, next);
        points.push(next);
        if (stays) await expectClean(t, site, vm, { bitmaps: 1 });
        else await expectCleanImages(t, site, vm, { bitmaps: 1 });
        if (!vm.isAlive) await vm.restart();
      }
      for (const point of points) await expectTruth(t, site, vm, point);
    },
  );

  t.test(`QEMU ${qemu}: one that starts and writes nothing does no harm`, async (t) => {
    const { vm, site, change } = await begin(t, qemu);
    const points = [await backUpWithTruth(site, vm)];
    for (const step of ['jobs', 'copying']) {
      await change(1);
      await vm.quit();
      const steps = async (reached: Step) => {
        if (reached !== step) return;
        await vm.restart();
        await vm.quit();
      };
      const { point } = await site.backUp(vm, { steps });
      t.equal(point.how, 'tracked');
      for (const { name } of vm.disks) await vm.truth(name, join(site.dir, `truth-${point.id}-${name}`));
      points.push(point);
      await expectCleanImages(t, site, vm, { bitmaps: 1 });
      await vm.restart();
    }
    for (const point of points) await expectTruth(t, site, vm, point);
  });

  t.test(`QEMU ${qemu}: a raw disk is written to during an offline run`, async (t) => {
    const { vm, site, change } = await begin(t, qemu, 'raw');
    await backUpWithTruth(site, vm);
    await vm.quit();
    const steps = async (reached: Step) => {
      if (reached !== 'copying') return;
      await vm.restart();
      await change(3);
      await vm.quit();
    };
    await t.rejects(site.backUp(vm, { steps }), { code: 'run-overtaken' });
    const point = await backUpWithTruth(site, vm);
    t.equal(point.how, 'resynced');
    await expectTruth(t, site, vm, point);
  });

  t.test(`QEMU ${qemu}: only a write to the clusters of an identity's pattern is seen, too`, async (t) => {
    // The disk is so small that the pattern is all of it.
    const { vm, site } = await begin(t, qemu, 'qcow2', MiB);
    await backUpWithTruth(site, vm);
    await vm.quit();
    const steps = async (reached: Step) => {
      if (reached !== 'copying') return;
      await vm.restart();
      await vm.write('vda', 9, 0, 65536);
      await vm.quit();
    };
    await t.rejects(site.backUp(vm, { steps }), { code: 'run-overtaken' });
    const point = await backUpWithTruth(site, vm);
    t.equal(point.how, 'tracked');
    await expectTruth(t, site, vm, point);
  });
}

async function begin(
  t: Test,
  qemu: QemuVersion,
  format: 'qcow2' | 'raw' = 'qcow2',
  sizeBytes = 16 * MiB,
): Promise<{ vm: FixtureVm; site: TestSite; change: (pattern: number) => Promise<void> }> {
  const vm = await testVm(t, {
    qemu,
    disks: [
      { name: 'vda', sizeBytes },
      { name: 'vdb', sizeBytes, attach: 'virtio-scsi', format },
    ],
  });
  const change = async (pattern: number) => {
    for (const { name } of vm.disks) await vm.write(name, pattern, (pattern % 7) * MiB, MiB);
  };
  return { vm, site: await testSite(t, { bin: qemuBin(qemu) }), change };
}
