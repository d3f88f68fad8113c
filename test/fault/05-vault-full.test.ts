/** Rows 5 and 6: the NAS fills up in the middle of an incremental, and of a full. */
import t from 'tap';
import { MiB } from '../../src/base/units.ts';
import { qemuBin } from '../../vm-fixtures/guestless.ts';
import { backUpWithTruth, expectClean, expectTruth, testSite } from '../helpers/engine.ts';
import { GuestWriter } from '../helpers/guest-writer.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { growTmpfs, smallTmpfs } from '../helpers/small-tmpfs.ts';
import { testVm } from '../helpers/vm.ts';

for (const qemu of qemuVersions(['7.2', '11.1'])) {
  t.test(`QEMU ${qemu}: a vault that fills up ends the run and nothing else`, async (t) => {
    const vm = await testVm(t, {
      qemu,
      disks: [
        { name: 'vda', sizeBytes: 64 * MiB },
        { name: 'vdb', sizeBytes: 64 * MiB, attach: 'virtio-scsi' },
      ],
    });
    const nas = smallTmpfs(t, 24 * MiB);
    const site = await testSite(t, { bin: qemuBin(qemu), vault: nas });
    const fill = async (pattern: number, length: number) => {
      for (const { name } of vm.disks) await vm.write(name, pattern, 16 * MiB, length);
    };

    await fill(1, 2 * MiB);
    const first = await backUpWithTruth(site, vm);
    await fill(2, 40 * MiB);
    for (const full of [false, true]) {
      const writer = await GuestWriter.start(vm, 'vda');
      await t.rejects(site.backUp(vm, { full }), { code: 'vault-full' });
      const { errors, worstMs } = await writer.stop();
      t.strictSame(errors, [], 'no write of the guest failed');
      t.ok(worstMs < 1_000, `no write of the guest stalled (worst: ${worstMs.toFixed(1)} ms)`);
      await expectClean(t, site, vm, { bitmaps: 1 });
    }

    await fill(3, MiB);
    for (const { name } of vm.disks) await vm.discard(name, 18 * MiB, 38 * MiB);
    growTmpfs(nas, 200 * MiB);
    const second = await backUpWithTruth(site, vm);
    t.equal(second.how, 'tracked', 'the bitmap of the last good point still tells the changes');
    await expectTruth(t, site, vm, first);
    await expectTruth(t, site, vm, second);
    await expectClean(t, site, vm, { bitmaps: 1 });
  });
}
