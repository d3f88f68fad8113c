/** Row 22: QEMU is killed in the middle of a run. */

import t from 'tap';
import type { Step } from '../../src/base/steps.ts';
import { MiB } from '../../src/base/units.ts';
import { qemuBin } from '../../vm-fixtures/guestless.ts';
import { backUpWithTruth, expectClean, expectTruth, testSite } from '../helpers/engine.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { testVm } from '../helpers/vm.ts';

for (const qemu of qemuVersions(['7.2', '11.1'])) {
  t.test(`QEMU ${qemu}: a VM killed in the middle of a run ends it, and the next one compares`, async (t) => {
    const vm = await testVm(t, {
      qemu,
      disks: [
        { name: 'vda', sizeBytes: 64 * MiB },
        { name: 'vdb', sizeBytes: 64 * MiB, format: 'raw' },
      ],
    });
    const site = await testSite(t, { bin: qemuBin(qemu) });
    for (const { name } of vm.disks) await vm.write(name, 1, 0, 24 * MiB);
    const first = await backUpWithTruth(site, vm);
    for (const step of ['copying', 'inserted', 'published']) {
      for (const { name } of vm.disks) await vm.write(name, step.length, 4 * MiB, 8 * MiB);
      let killedAt = 0;
      const steps = async (reached: Step) => {
        if (reached !== step) return;
        await vm.kill();
        killedAt = performance.now();
      };
      const run = site.backUp(vm, { bandwidth: 4 * MiB, steps });
      if (step === 'published') t.match((await run).warnings, [/old bitmap could not be removed/]);
      else await t.rejects(run, { code: 'vm-lost' }, step);
      t.not(killedAt, 0, 'it was killed');
      t.ok(performance.now() - killedAt < 5_000, 'and the run ended soon');
      await vm.restart();
      const next = await backUpWithTruth(site, vm);
      t.equal(next.how, 'resynced');
      for (const point of [first, next]) await expectTruth(t, site, vm, point);
      await expectClean(t, site, vm, { bitmaps: 1 });
    }
  });
}
