/** Changes between two backups that are no fault: per case what the next point is, and that it is right. */
import { join } from 'node:path';
import { execa } from 'execa';
import t from 'tap';
import { MiB } from '../../src/base/units.ts';
import { backedUpVm } from '../helpers/backed-up-vm.ts';
import { backUpWithTruth, expectClean, expectTruth } from '../helpers/engine.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';

for (const qemu of qemuVersions(['7.2', '11.1'])) {
  t.test(`QEMU ${qemu}: a disk has another image: resynced`, async (t) => {
    const { vm, site, first } = await backedUpVm(t, qemu);
    const image = join(vm.dir, 'another.qcow2');
    await vm.quit();
    await execa(join(vm.bin, 'qemu-img'), ['create', '-q', '-f', 'qcow2', image, `${64 * MiB}`]);
    await vm.restart({ images: { vda: image } });
    await vm.write('vda', 9, 8 * MiB, MiB);
    const second = await backUpWithTruth(site, vm);
    t.match(second, { how: 'resynced' });
    for (const point of [first, second]) await expectTruth(t, site, vm, point);
    await expectClean(t, site, vm, { bitmaps: 1 });
  });

  t.test(
    `QEMU ${qemu}: a raw disk is tracked as long as the VM runs, and resynced after a restart`,
    async (t) => {
      const { vm, site, first } = await backedUpVm(t, qemu, {
        disks: [{ name: 'vda', sizeBytes: 64 * MiB, format: 'raw' }],
      });
      const second = await backUpWithTruth(site, vm);
      t.match(second, { how: 'tracked' });
      await vm.restart();
      await vm.write('vda', 3, 30 * MiB, MiB);
      const third = await backUpWithTruth(site, vm);
      t.match(third, { how: 'resynced' });
      t.ok((third.disks[0]?.storedBytes ?? 0) < 4 * MiB, 'and thin');
      for (const point of [first, second, third]) await expectTruth(t, site, vm, point);
      await expectClean(t, site, vm, { bitmaps: 1 });
    },
  );
}
