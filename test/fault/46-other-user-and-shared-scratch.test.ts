/** Row 46: QEMU runs as another user than the engine; scratch lies on the filesystem of the VM's images. */

import { chmodSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import t from 'tap';
import type { Step } from '../../src/base/steps.ts';
import { MiB } from '../../src/base/units.ts';
import { qemuBin } from '../../vm-fixtures/guestless.ts';
import { backUpWithTruth, expectClean, expectTruth, testSite } from '../helpers/engine.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { growTmpfs, smallTmpfs } from '../helpers/small-tmpfs.ts';
import { testVm } from '../helpers/vm.ts';

const NOBODY = 65534;

t.test('a VM of another user is backed up, and gets into no folder but its own', async (t) => {
  const vm = await testVm(t, {
    qemu: '7.2',
    uid: NOBODY,
    gid: NOBODY,
    disks: [
      { name: 'vda', sizeBytes: 32 * MiB },
      { name: 'vdb', sizeBytes: 32 * MiB, format: 'raw' },
    ],
  });
  const site = await testSite(t);
  chmodSync(site.dir, 0o711);
  for (const { name } of vm.disks) await vm.write(name, 1, 0, 8 * MiB);
  const seen: [string, number, number][] = [];
  const steps = async (step: Step) => {
    if (step !== 'copying') return;
    const run = (await vm.leftovers()).nodes[0]?.slice(0, 11) ?? '';
    const folders = {
      nbd: join(site.engine.runtimeDir, `${run}-nbd`),
      scratch: join(site.engine.scratchDir, run),
    };
    for (const [what, folder] of [
      ...Object.entries(folders),
      ['writer', join(site.engine.runtimeDir, run)],
    ]) {
      const { uid, mode } = statSync(folder as string);
      seen.push([what as string, uid, mode & 0o777]);
    }
  };
  await site.backUp(vm, { steps });
  t.strictSame(seen, [
    ['nbd', NOBODY, 0o700],
    ['scratch', NOBODY, 0o700],
    ['writer', process.geteuid?.(), 0o700],
  ]);
  for (const { name } of vm.disks) await vm.write(name, 2, MiB, MiB);
  const point = await backUpWithTruth(site, vm);
  t.equal(point.how, 'tracked');
  await expectTruth(t, site, vm, point);
  await expectClean(t, site, vm, { bitmaps: 1 });
});

for (const qemu of qemuVersions(['7.2', '11.1'])) {
  t.test(`QEMU ${qemu}: scratch beside the VM's images is refused unless all of it fits`, async (t) => {
    const dir = smallTmpfs(t, 64 * MiB);
    const vm = await testVm(t, { qemu, dir, disks: [{ name: 'vda', sizeBytes: 64 * MiB }] });
    const site = await testSite(t, {
      bin: qemuBin(qemu),
      scratchDir: `${dirname(vm.disk('vda').image)}/scratch`,
    });
    await vm.write('vda', 1, 0, 40 * MiB);
    await t.rejects(site.backUp(vm), { code: 'scratch-full' });
    await expectClean(t, site, vm, { bitmaps: 0 });
    growTmpfs(dir, 256 * MiB);
    await expectTruth(t, site, vm, await backUpWithTruth(site, vm));
  });
}
