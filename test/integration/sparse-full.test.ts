/** Fulls of disks that are mostly holes: only what holds data is visited, and everything that does. */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import t from 'tap';
import { GiB, KiB, MiB } from '../../src/base/units.ts';
import { granuleBytesOf } from '../../src/vm/data-bitmap.ts';
import { type FixtureVm, type QemuVersion, qemuBin } from '../../vm-fixtures/guestless.ts';
import { cli } from '../helpers/cli.ts';
import { backUpWithTruth, expectClean, expectTruth, testSite } from '../helpers/engine.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { type Teardown, tempDir } from '../helpers/temp-dir.ts';
import { testVm } from '../helpers/vm.ts';

const SIZE_BYTES = 64 * GiB + 192 * KiB;
const GRANULE_BYTES = granuleBytesOf(SIZE_BYTES);
/** A full that visited every hole of one such disk would have 8 MiB of tables, besides the data. */
const LITTLE_BYTES = 7 * MiB;

/** qcow2 with and without a backing file of its own, and raw. */
async function sparseVm(t: Teardown, qemu: QemuVersion): Promise<FixtureVm> {
  const dir = tempDir(t);
  const bin = qemuBin(qemu);
  const base = join(dir, 'base.qcow2');
  await execa(join(bin, 'qemu-img'), ['create', '-q', '-f', 'qcow2', base, `${SIZE_BYTES}`]);
  const places = [3 * GRANULE_BYTES, 40 * GiB];
  const commands = places.flatMap((offset) => ['-c', `write -P 176 ${offset} 64k`]);
  await execa(join(bin, 'qemu-io'), ['-f', 'qcow2', ...commands, base]);
  const backing = ['-b', base, '-F', 'qcow2'];
  await execa(join(bin, 'qemu-img'), ['create', '-q', '-f', 'qcow2', ...backing, join(dir, 'over.qcow2')]);
  const sizeBytes = SIZE_BYTES;
  const disks = [
    { name: 'plain', sizeBytes },
    { name: 'over', sizeBytes, attach: 'virtio-scsi' },
    { name: 'raw', sizeBytes, format: 'raw', attach: 'ahci' },
  ] as const;
  return testVm(t, { qemu, dir, disks });
}

for (const qemu of qemuVersions()) {
  t.test(`QEMU ${qemu}: a full of sparse disks holds all their data and no table for a hole`, async (t) => {
    const vm = await sparseVm(t, qemu);
    const site = await testSite(t, { bin: qemuBin(qemu) });
    for (const { name } of vm.disks) {
      await vm.write(name, 1, 0, 64 * KiB);
      await vm.write(name, 2, GRANULE_BYTES - 4 * KiB, 8 * KiB);
      await vm.write(name, 3, 33 * GiB + 5 * KiB, 1 * KiB);
      await vm.write(name, 4, SIZE_BYTES - 4 * KiB, 4 * KiB);
      await vm.zero(name, 50 * GiB, 3 * MiB);
      await vm.discard(name, 40 * GiB, 64 * KiB);
    }
    const everywhere = async (pattern: number, offset: number) => {
      for (const { name } of vm.disks) await vm.write(name, pattern, offset, MiB);
    };
    const { point, warnings } = await site.backUp(vm, {
      steps: async (step) => {
        if (step === 'holes') await everywhere(5, 10 * GiB);
        // The disk was asked already.
        if (step === 'moment') await everywhere(6, 20 * GiB);
        if (step === 'inserted')
          for (const { name } of vm.disks) await vm.truth(name, join(site.dir, `truth-first-${name}`));
        if (step === 'jobs') {
          await everywhere(7, 0);
          await everywhere(7, 30 * GiB);
        }
      },
    });
    t.strictSame(warnings, []);
    for (const disk of point.disks)
      t.ok(disk.storedBytes < LITTLE_BYTES, `${disk.name}: ${disk.storedBytes}`);
    await expectTruth(t, site, vm, point, 'first');
    await expectTruth(t, site, vm, await backUpWithTruth(site, vm));
    await expectClean(t, site, vm, { bitmaps: 1 });
  });
}

for (const qemu of qemuVersions(['7.2', '11.1'])) {
  t.test(
    `QEMU ${qemu}: the VM's NBD server is somebody else's, so a sparse disk is copied whole`,
    async (t) => {
      const vm = await testVm(t, { qemu, disks: [{ name: 'plain', sizeBytes: SIZE_BYTES }] });
      await vm.write('plain', 1, 33 * GiB, 64 * KiB);
      const site = await testSite(t, { bin: qemuBin(qemu) });
      const path = join(vm.dir, 'other-nbd.sock');
      await vm.qmp.execute('nbd-server-start', { addr: { type: 'unix', data: { path } } });
      const point = await backUpWithTruth(site, vm);
      t.equal(point.kind, 'full');
      await expectTruth(t, site, vm, point);
      t.ok((await readdir(vm.dir)).includes('other-nbd.sock'), 'their server is left alone');
    },
  );

  t.test(
    `QEMU ${qemu}: killed while it asks where there is data, the next run stops the server`,
    async (t) => {
      const vm = await sparseVm(t, qemu);
      const site = await testSite(t, { bin: qemuBin(qemu) });
      const args = ['--vault', site.vault.path, '--qmp', vm.qmpSocket, '--qemu-bin', qemuBin(qemu)];
      const killed = await cli(site, ['backup', 'vm1', ...args], { QMPVAULT_STOP_AT: 'holes' });
      t.equal(killed.signal, 'SIGKILL');
      const point = await backUpWithTruth(site, vm);
      await expectTruth(t, site, vm, point);
      for (const disk of point.disks)
        t.ok(disk.storedBytes < LITTLE_BYTES, `${disk.name}: ${disk.storedBytes}`);
      await expectClean(t, site, vm, { bitmaps: 1 });
    },
  );
}
