/** Row 21: one VM is backed up to two vaults. */
import t from 'tap';
import { MiB } from '../../src/base/units.ts';
import { qemuBin } from '../../vm-fixtures/guestless.ts';
import { backedUpVm } from '../helpers/backed-up-vm.ts';
import { backUpWithTruth, expectClean, expectTruth, testSite } from '../helpers/engine.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';

for (const qemu of qemuVersions(['7.2', '11.1'])) {
  t.test(`QEMU ${qemu}: two vaults take turns and know nothing of each other`, async (t) => {
    const { vm, site, first } = await backedUpVm(t, qemu);
    const other = await testSite(t, { bin: qemuBin(qemu) });
    const sites = [other, site, other, site];
    const hows: string[] = [];
    for (const [nth, turn] of sites.entries()) {
      const point = await backUpWithTruth(turn, vm);
      hows.push(point.how);
      await expectTruth(t, turn, vm, point);
      for (const { name } of vm.disks) await vm.write(name, 10 + nth, (30 + nth) * MiB, MiB);
    }
    t.strictSame(hows, ['first', 'tracked', 'tracked', 'tracked']);
    await expectTruth(t, site, vm, first);
    await expectClean(t, site, vm, { bitmaps: 2 });
  });
}
