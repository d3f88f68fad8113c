/** Row 11: the VM, or one of its disks, is rolled back to an older state. */
import { copyFile } from 'node:fs/promises';
import { join } from 'node:path';
import t from 'tap';
import { backedUpVm } from '../helpers/backed-up-vm.ts';
import { backUpWithTruth, expectClean, expectTruth } from '../helpers/engine.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';

for (const qemu of qemuVersions(['7.2', '11.1'])) {
  t.test(`QEMU ${qemu}: rolled back to one and to three points ago`, async (t) => {
    const { vm, site, first, change } = await backedUpVm(t, qemu);
    const points = [first];
    const keep = async (label: string) => {
      await vm.quit();
      for (const { name, image } of vm.disks) await copyFile(image, join(site.dir, `${label}-${name}`));
      await vm.restart();
    };
    const putBack = async (label: string, disks = vm.disks) => {
      await vm.quit();
      for (const { name, image } of disks) await copyFile(join(site.dir, `${label}-${name}`), image);
      await vm.restart();
    };
    const next = async (pattern: number) => {
      await change(pattern);
      const point = await backUpWithTruth(site, vm);
      points.push(point);
      return point;
    };
    await keep('one');
    const second = await next(2);
    await keep('two');
    await next(3);
    await next(4);
    await putBack('two');
    const branched = await next(5);
    t.match(branched, { how: 'branched', parent: second.id });
    await putBack('one');
    t.match(await next(6), { how: 'branched', parent: first.id });
    t.match(await next(7), { how: 'tracked' });
    await putBack('two', vm.disks.slice(0, 1));
    t.match(await next(8), { how: 'resynced', parent: points.at(-2)?.id }, 'one disk alone is compared');
    for (const point of points) await expectTruth(t, site, vm, point);
    await expectClean(t, site, vm, { bitmaps: 1 });
  });
}
