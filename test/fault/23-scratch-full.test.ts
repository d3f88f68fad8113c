/** Row 23: scratch space runs out. */

import t from 'tap';
import { backUp } from '../../src/backup/backup.ts';
import { vmName } from '../../src/base/ids.ts';
import type { Step } from '../../src/base/steps.ts';
import { MiB } from '../../src/base/units.ts';
import { qemuBin } from '../../vm-fixtures/guestless.ts';
import { backUpWithTruth, expectClean, expectTruth, testSite } from '../helpers/engine.ts';
import { GuestWriter } from '../helpers/guest-writer.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { smallTmpfs } from '../helpers/small-tmpfs.ts';
import { testVm } from '../helpers/vm.ts';

for (const qemu of qemuVersions(['7.2', '11.1'])) {
  t.test(`QEMU ${qemu}: scratch that runs out ends the run and not the guest`, async (t) => {
    const vm = await testVm(t, { qemu, disks: [{ name: 'vda', sizeBytes: 128 * MiB }] });
    const scratchDir = smallTmpfs(t, 16 * MiB);
    const site = await testSite(t, { bin: qemuBin(qemu), scratchDir });
    await vm.write('vda', 1, 0, 96 * MiB);
    const first = await backUpWithTruth(site, vm);
    await vm.write('vda', 2, 0, 96 * MiB);

    const writer = await GuestWriter.start(vm, 'vda');
    const steps = async (step: Step) => {
      if (step === 'copying') await vm.write('vda', 3, 64 * MiB, 32 * MiB);
    };
    await t.rejects(site.backUp(vm, { bandwidth: 8 * MiB, steps }), { code: 'scratch-full' });
    t.strictSame((await writer.stop()).errors, [], 'no write of the guest failed');
    await expectClean(t, site, vm, { bitmaps: 1 });

    let isFull = false;
    const fill = async (step: Step) => {
      if (step !== 'copying') return;
      isFull = true;
      await vm.write('vda', 3, 64 * MiB, 8 * MiB);
    };
    const limited = { ...site.engine, reachStep: fill, scratchLimitBytes: 2 * MiB };
    const request = { vm: vmName('vm1'), qmp: vm.qmpSocket, quiesce: 'auto', fullEvery: 10 } as const;
    await t.rejects(backUp(limited, site.vault, { ...request, bandwidth: 8 * MiB }, {}), {
      code: 'scratch-full',
      details: { limitBytes: 2 * MiB },
    });
    t.ok(isFull, 'the limit was reached');
    await expectClean(t, site, vm, { bitmaps: 1 });

    const second = await backUpWithTruth(site, vm);
    t.equal(second.how, 'tracked');
    await expectTruth(t, site, vm, first);
    await expectTruth(t, site, vm, second);
  });
}
