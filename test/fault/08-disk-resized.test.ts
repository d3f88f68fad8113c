/** Row 8: a disk grew or shrank between two points. */
import { join } from 'node:path';
import { execa } from 'execa';
import t from 'tap';
import { KiB, MiB } from '../../src/base/units.ts';
import { backedUpVm } from '../helpers/backed-up-vm.ts';
import { backUpWithTruth, expectClean, expectTruth } from '../helpers/engine.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';

for (const qemu of qemuVersions(['7.2', '11.1'])) {
  t.test(`QEMU ${qemu}: a disk grew: tracked`, async (t) => {
    const { vm, site, first } = await backedUpVm(t, qemu);
    await vm.qmp.execute('block_resize', { 'node-name': 'vda', size: 96 * MiB });
    await vm.write('vda', 3, 90 * MiB, MiB);
    const second = await backUpWithTruth(site, vm);
    t.match(second, { how: 'tracked', disks: [{ virtualSizeBytes: 96 * MiB }, {}] });
    for (const point of [first, second]) await expectTruth(t, site, vm, point);
    await expectClean(t, site, vm, { bitmaps: 1 });
  });

  t.test(`QEMU ${qemu}: a disk grew and lost its bitmap: resynced`, async (t) => {
    const { vm, site, first } = await backedUpVm(t, qemu);
    await vm.qmp.execute('block_resize', { 'node-name': 'vda', size: 96 * MiB });
    await vm.write('vda', 3, 90 * MiB, MiB);
    await vm.kill();
    await vm.restart();
    const second = await backUpWithTruth(site, vm);
    t.match(second, { how: 'resynced', disks: [{ virtualSizeBytes: 96 * MiB }, {}] });
    for (const point of [first, second]) await expectTruth(t, site, vm, point);
  });

  t.test(`QEMU ${qemu}: a disk shrank: a full, saying why`, async (t) => {
    const { vm, site, first } = await backedUpVm(t, qemu);
    const { image } = vm.disk('vda');
    await vm.quit();
    const { bitmap } = first.disks[0] ?? {};
    await execa(join(vm.bin, 'qemu-img'), ['bitmap', '--remove', image, bitmap?.name ?? '']);
    await execa(join(vm.bin, 'qemu-img'), ['resize', '--shrink', image, `${32 * MiB}`]);
    await vm.restart();
    const second = await backUpWithTruth(site, vm);
    t.match(second, { kind: 'full', how: 'disks-changed', why: /vda shrank/ });
    for (const point of [first, second]) await expectTruth(t, site, vm, point);
    await expectClean(t, site, vm, { bitmaps: 1 });
  });

  t.test(
    `QEMU ${qemu}: a disk that shrank grew, and what its last cluster kept is back: tracked`,
    async (t) => {
      const { vm, site, first } = await backedUpVm(t, qemu);
      const { image } = vm.disk('vda');
      await vm.quit();
      const { bitmap } = first.disks[0] ?? {};
      await execa(join(vm.bin, 'qemu-img'), ['bitmap', '--remove', image, bitmap?.name ?? '']);
      await execa(join(vm.bin, 'qemu-img'), ['resize', '--shrink', image, `${20 * MiB + 512}`]);
      await vm.restart();
      const second = await backUpWithTruth(site, vm);
      await vm.qmp.execute('block_resize', { 'node-name': 'vda', size: 32 * MiB });
      const third = await backUpWithTruth(site, vm);
      t.match(third, { how: 'tracked', disks: [{ virtualSizeBytes: 32 * MiB }, {}] });
      for (const point of [first, second, third]) await expectTruth(t, site, vm, point);
    },
  );

  t.test(`QEMU ${qemu}: a disk shrank, and grew to what it was: resynced`, async (t) => {
    const { vm, site } = await backedUpVm(t, qemu);
    await vm.write('vda', 3, 60 * MiB, 4 * MiB);
    const second = await backUpWithTruth(site, vm);
    for (const size of [64 * MiB - 64 * KiB, 64 * MiB])
      await vm.qmp.execute('block_resize', { 'node-name': 'vda', size });
    const third = await backUpWithTruth(site, vm);
    t.match(third, { how: 'resynced', disks: [{ virtualSizeBytes: 64 * MiB }, {}] });
    for (const point of [second, third]) await expectTruth(t, site, vm, point);
  });
}
