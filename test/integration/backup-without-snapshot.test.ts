/** The weaker way: QEMU without copy-before-write (5.2), and the same by choice where it is there. */
import { join } from 'node:path';
import t from 'tap';
import { MiB } from '../../src/base/units.ts';
import { qemuBin } from '../../vm-fixtures/guestless.ts';
import { expectClean, expectTruth, testSite } from '../helpers/engine.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { testVm } from '../helpers/vm.ts';

for (const qemu of qemuVersions(['5.2', '7.2', '11.1'])) {
  t.test(`QEMU ${qemu}: points read straight from the source equal their moments`, async (t) => {
    const vm = await testVm(t, {
      qemu,
      disks: [
        { name: 'plain', sizeBytes: 64 * MiB, attach: 'virtio-blk' },
        { name: 'layered', sizeBytes: 64 * MiB, attach: 'virtio-scsi', withBacking: true },
        { name: 'limited', sizeBytes: 32 * MiB, format: 'raw', throttle: 0 },
      ],
    });
    const site = await testSite(t, { bin: qemuBin(qemu) });
    const disks = vm.disks.map(({ name }) => name);
    const everywhere = async (pattern: number, offset: number, length: number) => {
      for (const disk of disks) await vm.write(disk, pattern, offset, length);
    };
    await everywhere(1, 0, 10 * MiB);
    for (let nth = 0; nth < 4; nth += 1) {
      const { point, warnings } = await site.backUp(vm, {
        withoutSnapshot: true,
        steps: async (step) => {
          if (step === 'moment') await everywhere(10 + nth, 11 * MiB, MiB);
          // The transaction follows at once: nobody writes in between.
          if (step === 'frozen')
            for (const disk of disks) await vm.truth(disk, join(site.dir, `truth-${nth}-${disk}`));
          if (step === 'copying') await everywhere(30 + nth, 8 * MiB, 4 * MiB);
          if (step === 'copied') await everywhere(40 + nth, 13 * MiB, MiB);
        },
      });
      t.equal(point.how, nth === 0 ? 'first' : 'tracked');
      t.equal(warnings.length, 1, 'it warns that a slow NAS slows the guest');
      await expectTruth(t, site, vm, point, `${nth}`);
      for (const disk of disks) {
        await vm.zero(disk, 2 * MiB, MiB);
        await vm.discard(disk, 4 * MiB, MiB);
        await vm.write(disk, 50 + nth, nth * MiB, 64 * 1024);
      }
    }
    await expectClean(t, site, vm, { bitmaps: 1 });
  });
}
