/** Row 42: a bitmap of another vault, VM or run, under a name like ours. */
import { copyFile } from 'node:fs/promises';
import { join } from 'node:path';
import t from 'tap';
import { MiB } from '../../src/base/units.ts';
import { backedUpVm, expectThinNext, TWO_DISKS, UUID } from '../helpers/backed-up-vm.ts';
import { backUpWithTruth, expectClean, expectTruth } from '../helpers/engine.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { tempDir } from '../helpers/temp-dir.ts';
import { testVm } from '../helpers/vm.ts';

for (const qemu of qemuVersions(['7.2', '11.1'])) {
  t.test(`QEMU ${qemu}: bitmaps named like ours are no parent; those of others stay`, async (t) => {
    const given = await backedUpVm(t, qemu);
    const { vm, site, bitmap } = given;
    const ours = bitmap('vda');
    const strangers = [
      { node: 'vda', name: `qmpvault-deadbeef-${'0'.repeat(32)}` },
      { node: 'vda', name: `${ours.name.slice(0, 18)}${'0'.repeat(32)}` },
      { node: 'vda', name: `${ours.name}0` },
      // The one of another disk.
      { node: 'vda', name: bitmap('vdb').name },
    ];
    await vm.qmp.execute('block-dirty-bitmap-remove', ours);
    for (const stranger of strangers) {
      await vm.qmp.execute('block-dirty-bitmap-add', { ...stranger, persistent: true, granularity: 65536 });
    }
    // Of this vault, and of no point: under the lease nobody else can be about to need it.
    const garbage = [strangers[1]?.name, bitmap('vdb').name];
    const theirs = new Set(strangers.map(({ name }) => name).filter((name) => !garbage.includes(name)));
    await expectThinNext(t, given, 'resynced');
    const left = (await vm.leftovers()).bitmaps.filter(({ name }) => theirs.has(name));
    t.equal(left.length, theirs.size, 'what is of no run of ours is left alone');
    for (const { node, name } of left) await vm.qmp.execute('block-dirty-bitmap-remove', { node, name });
    await expectClean(t, site, vm, { bitmaps: 1 });
  });

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
