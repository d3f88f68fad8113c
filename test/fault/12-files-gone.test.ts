/** Row 12: files of a point are deleted, or cut, by hand. */
import { rm, stat, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import t from 'tap';
import { backedUpVm } from '../helpers/backed-up-vm.ts';
import { backUpWithTruth, expectClean, expectTruth } from '../helpers/engine.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';

for (const qemu of qemuVersions(['7.2', '11.1'])) {
  t.test(`QEMU ${qemu}: a file of the chain that is gone or changed seals it`, async (t) => {
    for (const damage of ['removed', 'shortened'] as const) {
      const { vm, site, first, change } = await backedUpVm(t, qemu);
      const second = await backUpWithTruth(site, vm);
      const file = join(site.vault.path, 'vm1', first.id, first.disks[0]?.file ?? '');
      if (damage === 'removed') await rm(file);
      else await truncate(file, (await stat(file)).size - 512);
      await change(3);
      const third = await backUpWithTruth(site, vm);
      t.match(third, { kind: 'full', how: 'chain-sealed' }, damage);
      await expectTruth(t, site, vm, third);
      const { points } = await site.vault.vm('vm1').points();
      t.strictSame(
        points.map(({ id, sealed }) => [id, sealed]),
        [
          [first.id, true],
          [second.id, false],
          [third.id, false],
        ],
      );
      await expectClean(t, site, vm, { bitmaps: 1 });
    }
  });

  t.test(`QEMU ${qemu}: a point whose folder is gone is nobody's parent`, async (t) => {
    for (const gone of ['the full', 'the newest'] as const) {
      const { vm, site, first, change } = await backedUpVm(t, qemu);
      const second = await backUpWithTruth(site, vm);
      const { id } = gone === 'the full' ? first : second;
      await rm(join(site.vault.path, 'vm1', id), { recursive: true });
      await change(3);
      const third = await backUpWithTruth(site, vm);
      if (gone === 'the full') t.equal(third.kind, 'full', gone);
      else {
        t.match(third, { how: 'resynced', parent: first.id }, gone);
        await expectTruth(t, site, vm, first);
      }
      await expectTruth(t, site, vm, third);
      await expectClean(t, site, vm, { bitmaps: 1 });
    }
  });
}
