/** Row 29: relative paths, odd characters, names of 200 characters: they work, or are refused before anything is done. */
import { mkdirSync, readdirSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { backUp } from '../../src/backup/backup.ts';
import { type DiskName, diskName, pointId, vmName } from '../../src/base/ids.ts';
import { MiB } from '../../src/base/units.ts';
import { restorePoint } from '../../src/restore/restore.ts';
import { deletePoint } from '../../src/upkeep/delete.ts';
import { VaultMemory } from '../../src/vault/memory.ts';
import { initVault } from '../../src/vault/vault.ts';
import { qemuBin } from '../../vm-fixtures/guestless.ts';
import { cli } from '../helpers/cli.ts';
import { testSite } from '../helpers/engine.ts';
import { difference, sha256 } from '../helpers/images.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { tempDir } from '../helpers/temp-dir.ts';
import { testVm } from '../helpers/vm.ts';

/** Blank, comma, quotes, percent, equals, braces, dollar, and what is not ASCII. */
const ODD = "ö, b=1 'q' 100% {$x} 日本";
const LONG = 'n'.repeat(200);

for (const qemu of qemuVersions(['7.2', '11.1'])) {
  t.test(`QEMU ${qemu}: odd and long names of VMs, disks, points and folders`, async (t) => {
    const dir = join(tempDir(t), 'i, m=g: %s');
    mkdirSync(dir);
    const vm = await testVm(t, { qemu, dir, disks: [{ name: 'vda', sizeBytes: 16 * MiB }] });
    const site = await testSite(t, { bin: qemuBin(qemu) });
    const engine = {
      ...site.engine,
      runtimeDir: join(site.dir, 'r, %d=1'),
      scratchDir: join(site.dir, `scratch ${ODD}`),
    };
    const memory = new VaultMemory(engine.stateDir);
    const vault = await initVault(join(site.dir, `nas ${ODD}`), { memory });
    const names: [vm: string, disk: string, points: [string, string, string]][] = [
      [ODD, ODD, [`1 ${ODD}`, `2 ${ODD}`, `3 ${ODD}`]],
      [LONG, LONG, [`1${LONG.slice(1)}`, `2${LONG.slice(1)}`, `3${LONG.slice(1)}`]],
    ];
    for (const [name, disk, [full, increment, resync]] of names) {
      // Of a running VM the disk has the device's own id; of a stopped one the name that it is given.
      const request = { vm: vmName(name), quiesce: 'auto', fullEvery: 10 } as const;
      const images = new Map<DiskName, string>([[diskName(disk), vm.disk('vda').image]]);
      const truths = new Map<string, string>();
      for (const [nth, id] of [full, increment, resync].entries()) {
        await vm.write('vda', nth + 1, nth * MiB, MiB);
        if (id === resync) {
          for (const bitmap of (await vm.leftovers()).bitmaps) {
            await vm.qmp.execute('block-dirty-bitmap-remove', { node: bitmap.node, name: bitmap.name });
          }
        }
        truths.set(id, join(site.dir, `truth ${nth}`));
        await vm.truth('vda', truths.get(id) ?? '');
        await vm.quit();
        const { point } = await backUp(engine, vault, { ...request, images, point: pointId(id) }, {});
        t.equal(point.how, ['first', 'tracked', 'resynced'][nth]);
        await vm.restart();
      }
      const { point } = await backUp(engine, vault, { ...request, qmp: vm.qmpSocket, full: true }, {});
      truths.set(point.id, join(site.dir, 'truth 2'));
      for (const [id, truth] of truths) {
        const { restored } = await restorePoint(engine.tools, vault, {
          vm: request.vm,
          point: id,
          format: 'raw',
          target: { dir: join(site.dir, `out ${ODD}`) },
          force: true,
        });
        t.equal(await sha256(restored[0]?.path ?? ''), await sha256(truth), id);
      }
      await deletePoint(engine, vault, { vm: request.vm, point: increment, descendants: 'refuse' });
      const folder = vault.vm(name);
      t.strictSame(
        (await folder.points()).points.map(({ id }) => id as string),
        [full, resync, point.id],
      );
      const merged = join(folder.path, resync, `${disk}.qcow2`);
      t.equal(await difference(merged, truths.get(resync) ?? ''), null, 'and merged');
      t.strictSame([readdirSync(engine.runtimeDir), readdirSync(engine.scratchDir)], [[], []]);
    }
  });

  t.test(`QEMU ${qemu}: relative paths, and what cannot be a name`, async (t) => {
    const vm = await testVm(t, { qemu, disks: [{ name: 'vda', sizeBytes: 16 * MiB }] });
    const site = await testSite(t, { bin: qemuBin(qemu) });
    await vm.write('vda', 1, 0, MiB);
    const run = (...args: string[]) =>
      cli(site, ['backup', ...args, '--qemu-bin', qemuBin(qemu)], {}, { cwd: site.dir });
    renameSync(vm.dir, join(site.dir, 'vm'));
    const made = await run('web1', '--vault', './a/../nas 2', '--init', '--qmp', 'vm/qmp.sock');
    t.equal(made.exitCode, 0, made.stdout);
    const refused = await run('../web2', '--vault', 'nas 2', '--qmp', 'vm/qmp.sock');
    t.equal(refused.exitCode, 2, refused.stdout);
    for (const name of ['', '.', '..', 'a/b', '-x', '.hidden', 'a\nb', 'x:y', 'x ', `${LONG}n`]) {
      for (const check of [vmName, diskName, pointId]) {
        t.throws(() => check(name), { code: 'name-invalid' }, JSON.stringify(name));
      }
    }
    t.strictSame(readdirSync(join(site.dir, 'nas 2')).toSorted(), ['vault.json', 'web1']);
  });
}
