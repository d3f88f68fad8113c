/** Row 19: a disk is plugged in, and unplugged. */
import t from 'tap';
import { MiB } from '../../src/base/units.ts';
import { backedUpVm } from '../helpers/backed-up-vm.ts';
import { backUpWithTruth, expectClean, expectTruth } from '../helpers/engine.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';

for (const qemu of qemuVersions(['7.2', '11.1'])) {
  t.test(`QEMU ${qemu}: a disk was plugged in, and unplugged`, async (t) => {
    const { vm, site, first } = await backedUpVm(t, qemu);
    await vm.plug({ name: 'sdx', sizeBytes: 32 * MiB });
    await vm.write('sdx', 7, 0, 4 * MiB);
    const second = await backUpWithTruth(site, vm);
    t.match(second, { kind: 'incremental', how: 'tracked', why: /sdx is not in/ });
    t.strictSame(Object.fromEntries(second.disks.map(({ name, kind }) => [name, kind])), {
      vda: 'incremental',
      vdb: 'incremental',
      sdx: 'full',
    });
    await vm.write('sdx', 8, MiB, MiB);
    const third = await backUpWithTruth(site, vm);
    t.strictSame(
      third.disks.map(({ kind }) => kind),
      Array(3).fill('incremental'),
    );
    for (const point of [first, second, third]) await expectTruth(t, site, vm, point);
    await vm.unplug('sdx');
    const fourth = await backUpWithTruth(site, vm);
    t.match(fourth, { how: 'tracked', why: /sdx .*is no longer there/ });
    await expectTruth(t, site, vm, fourth);
    await expectClean(t, site, vm, { bitmaps: 1 });
  });
}
