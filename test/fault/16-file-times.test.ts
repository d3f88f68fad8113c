/** Row 16: the times of all files on the NAS change, as a copy or a restore of the NAS itself does. */
import { readdirSync, utimesSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { verify } from '../../src/upkeep/verify.ts';
import { backedUpVm } from '../helpers/backed-up-vm.ts';
import { backUpWithTruth, expectClean, expectTruth } from '../helpers/engine.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { upkeepEngine } from '../helpers/upkeep.ts';

for (const qemu of qemuVersions(['7.2'])) {
  t.test(`QEMU ${qemu}: file times mean nothing to points`, async (t) => {
    const { vm, site, first, change } = await backedUpVm(t, qemu);
    const points = [first];
    for (const at of ['1970-01-02', '2099-01-01'].map((day) => new Date(day))) {
      for (const file of readdirSync(site.vault.path, { recursive: true })) {
        utimesSync(join(site.vault.path, `${file}`), at, at);
      }
      await change(points.length + 2);
      points.push(await backUpWithTruth(site, vm));
      t.match(points.at(-1), { how: 'tracked', parent: points.at(-2)?.id });
    }
    const { damaged } = await verify(upkeepEngine(t), site.vault, { level: 'deep' });
    t.strictSame(damaged, []);
    for (const point of points) await expectTruth(t, site, vm, point);
    await expectClean(t, site, vm, { bitmaps: 1 });
  });
}
