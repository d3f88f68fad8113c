/** Row 46: QEMU runs as another user than the engine. */
import { chmodSync, statSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { MiB } from '../../src/base/units.ts';
import { backUpWithTruth, expectClean, expectTruth, testSite } from '../helpers/engine.ts';
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
  const steps = async (step: string) => {
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
