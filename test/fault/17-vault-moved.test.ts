/** Row 17: the vault is moved, or mounted elsewhere, also on another host. */
import { mkdirSync, renameSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import type { VmName } from '../../src/base/ids.ts';
import { qemuTools } from '../../src/image/tools.ts';
import { restorePoint } from '../../src/restore/restore.ts';
import { VaultMemory } from '../../src/vault/memory.ts';
import { openVault } from '../../src/vault/vault.ts';
import { backedUpVm } from '../helpers/backed-up-vm.ts';
import { backUpWithTruth, expectClean, expectTruth, withVault } from '../helpers/engine.ts';
import { contentsOf, HandMadeVault } from '../helpers/hand-made-vault.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';

for (const qemu of qemuVersions(['7.2'])) {
  t.test(`QEMU ${qemu}: backups go on where the vault is now`, async (t) => {
    const { vm, site, first, change } = await backedUpVm(t, qemu);
    const memory = new VaultMemory(site.engine.stateDir);
    mkdirSync(join(site.dir, 'mnt'));
    const moved = join(site.dir, 'mnt', 'another place, with blanks: 100%');
    renameSync(site.vault.path, moved);
    await t.rejects(site.backUp(vm), { code: 'vault-away' }, 'where it was, it is missed');
    symlinkSync(moved, join(site.dir, 'link'));
    const points = [first];
    for (const path of [moved, join(site.dir, 'link')]) {
      const there = withVault(site, await openVault(path, { memory }));
      await change(points.length + 2);
      points.push(await backUpWithTruth(there, vm));
      t.match(points.at(-1), { how: 'tracked', parent: points.at(-2)?.id });
      for (const point of points) await expectTruth(t, there, vm, point);
      await expectClean(t, there, vm, { bitmaps: 1 });
    }
  });
}

t.test('a vault restores wherever it is moved to, on a host that never saw it', async (t) => {
  const made = await HandMadeVault.withChain(t);
  const moved = join(made.dir, 'moved elsewhere');
  renameSync(made.vault.path, moved);
  const vault = await openVault(moved, { memory: new VaultMemory(join(made.dir, 'other-state')) });
  const { restored } = await restorePoint(qemuTools(), vault, {
    vm: 'web1' as VmName,
    point: 'latest',
    format: 'qcow2',
    target: { dir: join(made.dir, 'out') },
  });
  for (const { disk, path } of restored) {
    t.ok((await contentsOf(t, path, 'qcow2')).equals(made.truth('p3', disk)));
  }
});
