/** Rows 1 and 2: the engine is killed at each step of a full and of an incremental, and started again. */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { until } from '../../src/base/deadline.ts';
import { STEPS } from '../../src/base/steps.ts';
import { GiB, MiB } from '../../src/base/units.ts';
import { qemuBin } from '../../vm-fixtures/guestless.ts';
import { cli } from '../helpers/cli.ts';
import { backUpWithTruth, expectClean, expectTruth, type TestSite, testSite } from '../helpers/engine.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { expectCleanImages } from '../helpers/stopped.ts';
import { testVm } from '../helpers/vm.ts';

/** Every other run is a full. Holes are asked for in a full only. */
const isFull = (step: string, nth: number) => nth % 2 === 0 || step === 'holes';

for (const qemu of qemuVersions(['7.2', '11.1'])) {
  t.test(`QEMU ${qemu}: an engine killed at any step leaves what the next one puts right`, async (t) => {
    const vm = await testVm(t, {
      qemu,
      disks: [
        // With holes that are worth asking for.
        { name: 'vda', sizeBytes: 3 * GiB },
        { name: 'vdb', sizeBytes: 16 * MiB, attach: 'virtio-scsi', iothread: true },
      ],
    });
    const site = await testSite(t, { bin: qemuBin(qemu) });
    const isRunning = async () => {
      const { status } = (await vm.qmp.execute('query-status')) as { status: string };
      return status === 'running' || undefined;
    };
    const points = [await backUpWithTruth(site, vm)];
    for (const [nth, step] of STEPS.backup.entries()) {
      for (const { name } of vm.disks) await vm.write(name, nth + 1, 4 * MiB, 3 * MiB);
      await killedAt(t, site, step, ['--qmp', vm.qmpSocket, ...(isFull(step, nth) ? ['--full'] : [])]);
      await until(isRunning, { what: `the guest to run again after ${step}`, timeoutMs: 10_000 });
      for (const { name } of vm.disks) await vm.write(name, nth + 100, 9 * MiB, MiB);
      const point = await backUpWithTruth(site, vm, { fullEvery: 99 });
      t.equal(point.how, 'tracked', `${step}: the next is a tracked incremental`);
      await expectTruth(t, site, vm, point);
      await expectClean(t, site, vm, { bitmaps: 1 });
      points.push(point);
    }
    for (const point of points) await expectTruth(t, site, vm, point);
    const published = (await readdir(join(site.vault.path, 'vm1'))).filter((name) => /^\d/.test(name));
    t.equal(
      published.length,
      points.length + 1,
      'one more was published: killed right after the rename it is a point',
    );
  });

  t.test(`QEMU ${qemu}: an engine killed while it compares leaves no NBD server behind`, async (t) => {
    const vm = await testVm(t, { qemu, disks: [{ name: 'vda', sizeBytes: 32 * MiB }] });
    const site = await testSite(t, { bin: qemuBin(qemu) });
    await vm.write('vda', 1, 0, 16 * MiB);
    const first = await backUpWithTruth(site, vm);
    for (const { node, name } of (await vm.leftovers()).bitmaps) {
      await vm.qmp.execute('block-dirty-bitmap-remove', { node, name });
    }
    await vm.write('vda', 2, MiB, MiB);
    await killedAt(t, site, 'copying', ['--qmp', vm.qmpSocket]);
    t.equal((await vm.leftovers()).exports.length, 1, 'it was comparing');
    const second = await backUpWithTruth(site, vm);
    t.equal(second.how, 'resynced');
    for (const point of [first, second]) await expectTruth(t, site, vm, point);
    await expectClean(t, site, vm, { bitmaps: 1 });
  });

  for (const next of ['stopped', 'running'] as const) {
    t.test(
      `QEMU ${qemu}: an engine killed in an offline run, and the next finds the VM ${next}`,
      async (t) => {
        const vm = await testVm(t, {
          qemu,
          disks: [
            { name: 'vda', sizeBytes: 16 * MiB },
            { name: 'vdb', sizeBytes: 16 * MiB, attach: 'virtio-scsi' },
          ],
        });
        const site = await testSite(t, { bin: qemuBin(qemu) });
        const change = async (pattern: number) => {
          for (const { name } of vm.disks) await vm.write(name, pattern, (pattern % 7) * MiB, MiB);
        };
        const points = [await backUpWithTruth(site, vm)];
        for (const [nth, step] of STEPS['offline backup'].entries()) {
          await change(nth + 1);
          await vm.quit();
          await killedAt(t, site, step, isFull(step, nth) ? ['--full'] : []);
          if (next === 'running') {
            await vm.restart();
            await change(nth + 101);
          }
          const point = await backUpWithTruth(site, vm, { fullEvery: 99 });
          t.equal(point.how, 'tracked', `${step}: the next is a tracked incremental`);
          await expectTruth(t, site, vm, point);
          if (next === 'running') await expectClean(t, site, vm, { bitmaps: 1 });
          else await expectCleanImages(t, site, vm, { bitmaps: 1 });
          points.push(point);
          if (next === 'stopped') await vm.restart();
        }
        for (const point of points) await expectTruth(t, site, vm, point);
      },
    );
  }
}

/** A backup whose engine kills itself at a step. A step that is never reached is a failure, too. */
async function killedAt(t: Test, site: TestSite, step: string, args: readonly string[]): Promise<void> {
  const { storageDaemon } = site.engine.tools;
  const where = ['--vault', site.vault.path, '--qemu-bin', join(storageDaemon, '..')];
  const killed = await cli(site, ['backup', 'vm1', ...where, ...args], {
    QMPVAULT_STOP_AT: `${step}:kill`,
  });
  t.equal(killed.signal, 'SIGKILL', `${step}: killed`);
  t.match(killed.stderr, `step ${step}`, `${step}: exactly there`);
}
