/** Which disks are backed up, under which names, and what is left out and why. */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import t from 'tap';
import { diskName } from '../../src/base/ids.ts';
import { MiB } from '../../src/base/units.ts';
import { qemuBin } from '../../vm-fixtures/guestless.ts';
import { backUpWithTruth, expectClean, expectTruth, testSite } from '../helpers/engine.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { testVm } from '../helpers/vm.ts';

for (const qemu of qemuVersions()) {
  t.test(`QEMU ${qemu}: every kind of disk, and not its cdrom`, async (t) => {
    const vm = await testVm(t, {
      qemu,
      disks: [
        { name: 'vda', sizeBytes: 8 * MiB },
        { name: 'sda', sizeBytes: 8 * MiB, attach: 'virtio-scsi', iothread: true },
        { name: 'sata', sizeBytes: 8 * MiB, attach: 'ahci', format: 'raw' },
        { name: 'ssd', sizeBytes: 8 * MiB, attach: 'nvme', withBacking: true },
        { name: 'slow', sizeBytes: 8 * MiB, throttle: 0 },
        { name: 'cd', sizeBytes: MiB, attach: 'cdrom' },
        { name: 'golden', sizeBytes: MiB, readOnly: true },
      ],
    });
    const site = await testSite(t, { bin: qemuBin(qemu) });
    const writable = vm.disks.filter(({ name }) => name !== 'cd' && name !== 'golden');
    for (const how of ['first', 'tracked']) {
      for (const { name } of writable) await vm.write(name, how.length, MiB, MiB);
      const point = await backUpWithTruth(site, vm);
      t.equal(point.how, how);
      t.strictSame(point.disks.map(({ name }) => name).sort(), ['sata', 'sda', 'slow', 'ssd', 'vda']);
      t.strictSame(point.left.map(({ name, why }) => [name, why]).sort(), [
        ['cd', 'removable medium'],
        ['golden', 'read-only'],
      ]);
      await expectTruth(t, site, vm, point);
    }
    const { point } = await site.backUp(vm, { exclude: [diskName('slow')], full: true });
    t.match(
      point.left.find(({ name }) => name === 'slow'),
      { why: 'excluded by the caller' },
    );
    t.strictSame((await readdir(join(site.vault.path, 'vm1', point.id))).sort(), [
      'manifest.json',
      'sata.qcow2',
      'sda.qcow2',
      'ssd.qcow2',
      'vda.qcow2',
    ]);
    await t.rejects(site.backUp(vm, { exclude: [diskName('vdz')] }), { code: 'disk-unknown' });
    await expectClean(t, site, vm, { bitmaps: 1, disks: 4 });
  });
}

t.test(
  'QEMU 7.2: a throttled disk in an iothread is read without a snapshot, since a filter would abort it',
  async (t) => {
    const vm = await testVm(t, {
      qemu: '7.2',
      disks: [
        { name: 'vda', sizeBytes: 8 * MiB, throttle: 0, iothread: true },
        { name: 'vdb', sizeBytes: 8 * MiB },
      ],
    });
    const site = await testSite(t);
    for (const how of ['first', 'tracked', 'tracked']) {
      for (const { name } of vm.disks) await vm.write(name, 7, MiB, MiB);
      const { point, warnings } = await site.backUp(vm);
      t.equal(point.how, how);
      t.equal(warnings.length, 1);
    }
    t.ok(vm.isAlive);
    await expectClean(t, site, vm, { bitmaps: 1 });
  },
);
