import { rename } from 'node:fs/promises';
import { join } from 'node:path';
import t from 'tap';
import { MiB } from '../../src/base/units.ts';
import { qemuBin } from '../../vm-fixtures/guestless.ts';
import { testSite } from '../helpers/engine.ts';
import { difference } from '../helpers/images.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { testVm } from '../helpers/vm.ts';

for (const qemu of qemuVersions()) {
  t.test(`QEMU ${qemu}: five points of three disks equal their moments`, async (t) => {
    const vm = await testVm(t, {
      qemu,
      disks: [
        { name: 'plain', sizeBytes: 128 * MiB, attach: 'nameless' },
        { name: 'layered', sizeBytes: 96 * MiB, attach: 'virtio-scsi', withBacking: true, iothread: true },
        { name: 'limited', sizeBytes: 64 * MiB, format: 'raw', attach: 'nvme', throttle: 0 },
      ],
    });
    const site = await testSite(t, { bin: qemuBin(qemu) });
    const disks = vm.disks.map(({ name }) => name);
    const everywhere = async (pattern: number, offset: number, length: number) => {
      for (const disk of disks) await vm.write(disk, pattern, offset, length);
    };
    await everywhere(1, 0, 20 * MiB);
    const kinds: string[] = [];
    const points: string[] = [];
    for (let nth = 0; nth < 5; nth += 1) {
      const { point, warnings } = await site.backUp(vm, {
        steps: async (step) => {
          if (step === 'bitmaps') await everywhere(10 + nth, 21 * MiB, 64 * 1024);
          if (step === 'moment') await everywhere(20 + nth, 22 * MiB, 64 * 1024);
          if (step === 'inserted')
            for (const disk of disks) await vm.truth(disk, join(site.dir, `truth-${nth}-${disk}`));
          if (step === 'jobs') await everywhere(30 + nth, 21 * MiB, 128 * 1024);
          if (step === 'copied') await everywhere(40 + nth, 23 * MiB, 64 * 1024);
          if (step === 'published') await everywhere(50 + nth, 24 * MiB, 64 * 1024);
        },
      });
      t.strictSame(warnings, []);
      kinds.push(`${point.kind} ${point.how}`);
      points.push(point.id);
      for (const disk of disks) {
        await vm.write(disk, 60 + nth, (nth + 1) * MiB, 64 * 1024);
        await vm.zero(disk, 10 * MiB, MiB);
        await vm.zero(disk, 12 * MiB, MiB, { unmap: true });
        await vm.discard(disk, 14 * MiB, MiB);
        await vm.write(disk, 0, 16 * MiB, MiB);
      }
    }
    t.strictSame(kinds, ['full first', ...Array(4).fill('incremental tracked')]);
    const check = async (vault: string) => {
      for (const [nth, point] of points.entries()) {
        for (const [i, disk] of disks.entries()) {
          const file = join(vault, 'vm1', point, `${i === 0 ? 'virtio0' : disk}.qcow2`);
          t.equal(
            await difference(file, join(site.dir, `truth-${nth}-${disk}`)),
            null,
            `${disk} of point ${nth}`,
          );
        }
      }
    };
    await check(site.vault.path);
    const moved = join(site.dir, 'moved');
    await rename(site.vault.path, moved);
    await check(moved);
    const { nodes, jobs, exports, bitmaps } = await vm.leftovers();
    t.strictSame({ nodes, jobs, exports }, { nodes: [], jobs: [], exports: [] });
    t.equal(bitmaps.length, disks.length);
  });
}
