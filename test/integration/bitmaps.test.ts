/** `qmpvault bitmaps`: whose each bitmap is, and which are removed. */
import t from 'tap';
import { newBitmapName, newVaultId } from '../../src/base/ids.ts';
import { MiB } from '../../src/base/units.ts';
import { qemuBin } from '../../vm-fixtures/guestless.ts';
import { cli } from '../helpers/cli.ts';
import { backUpWithTruth, expectTruth, testSite } from '../helpers/engine.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { testVm } from '../helpers/vm.ts';

for (const qemu of qemuVersions(['7.2', '11.1'])) {
  t.test(`QEMU ${qemu}: bitmaps are told apart, and only what is meant is removed`, async (t) => {
    const vm = await testVm(t, { qemu, disks: [{ name: 'vda', sizeBytes: 32 * MiB }] });
    const site = await testSite(t, { bin: qemuBin(qemu) });
    await vm.write('vda', 1, 0, MiB);
    const first = await backUpWithTruth(site, vm);
    const names = {
      newest: first.disks[0]?.bitmap?.name ?? '',
      orphan: newBitmapName(site.vault.id),
      'other-vault': newBitmapName(newVaultId()),
      foreign: 'foreign-tool-1',
    };
    for (const name of [names.orphan, names['other-vault'], names.foreign]) {
      await vm.qmp.execute('block-dirty-bitmap-add', { node: 'vda', name });
    }
    const bitmaps = async (...args: string[]) => {
      const common = ['--vault', site.vault.path, '--qmp', vm.qmpSocket, '--qemu-bin', qemuBin(qemu)];
      const { exitCode, stdout } = await cli(site, ['bitmaps', 'vm1', ...common, ...args]);
      t.equal(exitCode, 0);
      return JSON.parse(stdout) as {
        bitmaps: { name: string; owner: string }[];
        removed: { name: string }[];
      };
    };
    const owners = (entries: { name: string; owner: string }[]) =>
      Object.fromEntries(entries.map(({ name, owner }) => [owner, name]));
    t.strictSame(owners((await bitmaps()).bitmaps), names);

    const cleaned = await bitmaps('--remove-orphans');
    t.strictSame(
      cleaned.removed.map(({ name }) => name),
      [names.orphan],
    );
    const second = await backUpWithTruth(site, vm);
    t.equal(second.how, 'tracked', 'the backup goes on as if nothing had been there');

    await bitmaps('--remove');
    t.strictSame(
      (await vm.leftovers()).bitmaps.map(({ name }) => name),
      [names.foreign],
    );
    const third = await backUpWithTruth(site, vm);
    t.equal(third.how, 'resynced', 'and now it reads the disk');
    for (const point of [first, second, third]) await expectTruth(t, site, vm, point);
  });
}
