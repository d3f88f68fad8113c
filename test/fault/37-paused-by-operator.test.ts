/** Row 37: a VM that its operator paused stays paused, and gets its point. */
import t from 'tap';
import { MiB } from '../../src/base/units.ts';
import { qemuBin } from '../../vm-fixtures/guestless.ts';
import { backUpWithTruth, expectClean, expectTruth, testSite } from '../helpers/engine.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { testVm } from '../helpers/vm.ts';

for (const qemu of qemuVersions(['7.2', '11.1'])) {
  t.test(`QEMU ${qemu}: a paused VM stays paused`, async (t) => {
    const vm = await testVm(t, {
      qemu,
      disks: [
        { name: 'vda', sizeBytes: 32 * MiB },
        { name: 'vdb', sizeBytes: 32 * MiB },
      ],
    });
    const site = await testSite(t, { bin: qemuBin(qemu) });
    for (const { name } of vm.disks) await vm.write(name, 1, 0, 8 * MiB);
    await vm.stop();
    const resumed = vm.qmp.listen(({ name }) => name === 'RESUME');
    for (const how of ['first', 'tracked']) {
      const point = await backUpWithTruth(site, vm);
      t.equal(point.how, how);
      t.equal(point.timings.pauseMs, null, 'we did not pause it');
      await expectTruth(t, site, vm, point);
    }
    t.match(await vm.qmp.execute('query-status'), { status: 'paused' });
    t.strictSame(resumed.take(), [], 'it never ran meanwhile');
    await expectClean(t, site, vm, { bitmaps: 1 });
  });
}
