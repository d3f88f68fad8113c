/** Before QEMU 9.0, adding a node over a disk in an iothread that has I/O in flight aborts the VM. */

import t from 'tap';
import type { Step } from '../../src/base/steps.ts';
import { MiB } from '../../src/base/units.ts';
import { qemuBin } from '../../vm-fixtures/guestless.ts';
import { expectClean, testSite } from '../helpers/engine.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { testVm } from '../helpers/vm.ts';

const STEPS = ['scratch', 'moment', 'jobs', 'copied'];

for (const qemu of qemuVersions()) {
  t.test(`QEMU ${qemu}: a disk in an iothread has I/O in flight at every step`, async (t) => {
    // Only virtio-scsi is in its iothread without a guest's driver.
    const disk = { name: 'vda', sizeBytes: 192 * MiB, attach: 'virtio-scsi', iothread: true } as const;
    const vm = await testVm(t, { qemu, disks: [disk] });
    const site = await testSite(t, { bin: qemuBin(qemu) });
    await vm.write('vda', 1, 0, 192 * MiB);
    /** Some hundred milliseconds of writes, begun and not waited for. */
    const steps = async (step: Step) => {
      if (!STEPS.includes(step)) return;
      for (let at = 0; at < 192; at += 16)
        await vm.qmp.execute('human-monitor-command', {
          'command-line': `qemu-io -d ${vm.disk('vda').qdev} "aio_write -q -P 2 ${at}M 16M"`,
        });
    };
    for (const how of ['first', 'tracked']) {
      const { point, warnings } = await site.backUp(vm, { steps });
      t.equal(point.how, how);
      t.strictSame(warnings, []);
      t.comment(`${qemu}: ${JSON.stringify(point.timings)}`);
    }
    t.ok(vm.isAlive);
    await expectClean(t, site, vm, { bitmaps: 1 });
  });
}
