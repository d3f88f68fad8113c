/** Row 20: two disks whose images have the same name, in two folders. */
import { mkdirSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { MiB } from '../../src/base/units.ts';
import { qemuBin } from '../../vm-fixtures/guestless.ts';
import { backUpWithTruth, expectClean, expectTruth, testSite } from '../helpers/engine.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { expectCleanImages } from '../helpers/stopped.ts';
import { testVm } from '../helpers/vm.ts';

for (const qemu of qemuVersions(['7.2', '11.1'])) {
  t.test(`QEMU ${qemu}: disks are told apart by more than their images' names`, async (t) => {
    const vm = await testVm(t, {
      qemu,
      disks: [
        { name: 'vda', sizeBytes: 16 * MiB },
        { name: 'vdb', sizeBytes: 16 * MiB },
      ],
    });
    const site = await testSite(t, { bin: qemuBin(qemu) });
    await vm.quit();
    const images: Record<string, string> = {};
    for (const { name, image } of vm.disks) {
      mkdirSync(join(vm.dir, name));
      images[name] = join(vm.dir, name, 'disk.qcow2');
      renameSync(image, images[name]);
    }
    await vm.restart({ images });
    const points = [];
    for (const how of ['first', 'tracked']) {
      await vm.write('vda', 1, 0, how.length * MiB);
      await vm.write('vdb', 2, 0, how.length * MiB);
      points.push(await backUpWithTruth(site, vm));
      t.equal(points.at(-1)?.how, how);
    }
    await vm.write('vdb', 3, 4 * MiB, MiB);
    await vm.quit();
    points.push(await backUpWithTruth(site, vm));
    t.equal(points.at(-1)?.how, 'tracked', 'also while the VM is stopped');
    for (const point of points) await expectTruth(t, site, vm, point);
    await expectCleanImages(t, site, vm, { bitmaps: 1 });
    await vm.restart();
    await expectClean(t, site, vm, { bitmaps: 1 });
  });
}
