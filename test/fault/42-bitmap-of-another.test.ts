/** Row 42: a bitmap of another vault, VM or run, under a name like ours. */
import { copyFile } from 'node:fs/promises';
import { join } from 'node:path';
import t from 'tap';
import { MiB } from '../../src/base/units.ts';
import { backedUpVm, TWO_DISKS, UUID } from '../helpers/backed-up-vm.ts';
import { backUpWithTruth, expectTruth } from '../helpers/engine.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { tempDir } from '../helpers/temp-dir.ts';
import { testVm } from '../helpers/vm.ts';

for (const qemu of qemuVersions(['7.2', '11.1'])) {
  t.test(`QEMU ${qemu}: a clone under the same name but with its own UUID is refused`, async (t) => {
    const { vm, site } = await backedUpVm(t, qemu);
    await vm.quit();
    const dir = tempDir(t);
    for (const { name, image } of vm.disks) await copyFile(image, join(dir, `${name}.qcow2`));
    const clone = await testVm(t, {
      qemu,
      dir,
      disks: TWO_DISKS,
      uuid: '99999999-2222-3333-4444-555555555555',
    });
    await t.rejects(site.backUp(clone), { code: 'vm-uuid' });
  });

  t.test(`QEMU ${qemu}: a clone that kept name and UUID branches off, and is right`, async (t) => {
    const { vm, site, first } = await backedUpVm(t, qemu);
    await vm.quit();
    const dir = tempDir(t);
    for (const { name, image } of vm.disks) await copyFile(image, join(dir, `${name}.qcow2`));
    await vm.restart();
    const second = await backUpWithTruth(site, vm);
    const clone = await testVm(t, { qemu, dir, disks: TWO_DISKS, uuid: UUID });
    await clone.write('vda', 9, 40 * MiB, MiB);
    const branched = await backUpWithTruth(site, clone);
    t.match(branched, { how: 'branched', parent: first.id });
    await expectTruth(t, site, clone, branched);
    const third = await backUpWithTruth(site, vm);
    t.match(third, { how: 'branched', parent: second.id });
    for (const point of [first, second, third]) await expectTruth(t, site, vm, point);
  });
}
