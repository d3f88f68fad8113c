import t from 'tap';
import { type VmName, vmName } from '../../src/base/ids.ts';
import { MiB } from '../../src/base/units.ts';
import { deletePoint } from '../../src/upkeep/delete.ts';
import type { Manifest } from '../../src/vault/manifest.ts';
import { qemuBin } from '../../vm-fixtures/guestless.ts';
import { backUpWithTruth, expectClean, expectTruth, testSite } from '../helpers/engine.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { testVm } from '../helpers/vm.ts';

const vm1: VmName = vmName('vm1');

for (const qemu of qemuVersions(['7.2', '11.1'])) {
  t.test(`QEMU ${qemu}: points of a running VM are deleted, and its backups go on`, async (t) => {
    const vm = await testVm(t, {
      qemu,
      disks: [
        { name: 'vda', sizeBytes: 16 * MiB },
        { name: 'vdb', sizeBytes: 16 * MiB, attach: 'virtio-scsi' },
        { name: 'vdc', sizeBytes: 8 * MiB, format: 'raw' },
      ],
    });
    const site = await testSite(t, { bin: qemuBin(qemu) });
    const points: Manifest[] = [];
    const next = async () => {
      const nth = points.length;
      for (const { name } of vm.disks) await vm.write(name, nth + 1, nth * MiB, (1 + (nth % 2)) * MiB);
      points.push(await backUpWithTruth(site, vm));
      return points.at(-1)!;
    };
    const remove = (point: string) =>
      deletePoint(site.engine, site.vault, { vm: vm1, point, descendants: 'keep' });
    for (let nth = 0; nth < 4; nth += 1) await next();
    const [full, middle, , newest] = points;
    await remove(middle!.id);
    t.match(await next(), { how: 'tracked', parent: newest!.id }, 'tracked after the middle one');
    await remove(full!.id);
    t.match(await next(), { how: 'tracked' }, 'tracked after the full');
    const last = points.at(-1)!;
    await remove(last.id);
    t.match(await next(), { parent: last.parent, how: 'resynced' }, 'resynced after the newest');
    await expectClean(t, site, vm, { bitmaps: 1 });
    const { points: left } = await site.vault.vm('vm1').points();
    const kept = points.filter((point) => left.some(({ id }) => id === point.id));
    t.equal(kept.length, 4);
    for (const point of kept) await expectTruth(t, site, vm, point);
  });
}
