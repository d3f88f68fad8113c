/** A run that could not clear up after itself: the next one does, also one of the same process, as in a daemon. */
import t from 'tap';
import { MiB } from '../../src/base/units.ts';
import { qemuBin } from '../../vm-fixtures/guestless.ts';
import { backUpWithTruth, expectClean, expectTruth, testSite } from '../helpers/engine.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { testVm } from '../helpers/vm.ts';

for (const qemu of qemuVersions(['7.2', '11.1'])) {
  t.test(`QEMU ${qemu}: what a run of this process left in the VM, the next takes out`, async (t) => {
    const vm = await testVm(t, { qemu, disks: [{ name: 'vda', sizeBytes: 8 * MiB }] });
    const site = await testSite(t, { bin: qemuBin(qemu) });
    await vm.write('vda', 1, 0, MiB);
    const first = await backUpWithTruth(site, vm);
    await vm.write('vda', 2, MiB, MiB);
    const steps = async (step: string) => {
      if (step !== 'copied') return;
      // Somebody stands on the snapshot: it cannot be removed.
      const file = (await vm.leftovers()).nodes.find((name) => name.endsWith('-a0'));
      await vm.qmp.execute('blockdev-add', { driver: 'raw', 'node-name': 'squatter', file });
    };
    await t.rejects(site.backUp(vm, { steps }), { code: 'vm-left-unclean' });
    t.not((await vm.leftovers()).nodes.length, 0, 'something was left');
    await vm.qmp.execute('blockdev-del', { 'node-name': 'squatter' });
    const second = await backUpWithTruth(site, vm);
    t.equal(second.how, 'tracked');
    for (const point of [first, second]) await expectTruth(t, site, vm, point);
    await expectClean(t, site, vm, { bitmaps: 1 });
  });
}
