/** Rows 1, 2 and 36: the engine is killed at each step of a full and of an incremental, and started again. */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import t from 'tap';
import { until } from '../../src/base/deadline.ts';
import { MiB } from '../../src/base/units.ts';
import { qemuBin } from '../../vm-fixtures/guestless.ts';
import { cli } from '../helpers/cli.ts';
import { backUpWithTruth, expectClean, expectTruth, testSite } from '../helpers/engine.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { testVm } from '../helpers/vm.ts';

const STEPS = [
  'journal',
  'staging',
  'scratch',
  'bitmaps',
  'moment',
  'frozen',
  'stopped',
  'inserted',
  'jobs',
  'targets',
  'copying',
  'copied',
  'synced',
  'publish',
  'published',
];

for (const qemu of qemuVersions(['7.2', '11.1'])) {
  t.test(`QEMU ${qemu}: an engine killed at any step leaves what the next one puts right`, async (t) => {
    const vm = await testVm(t, {
      qemu,
      disks: [
        { name: 'vda', sizeBytes: 16 * MiB },
        { name: 'vdb', sizeBytes: 16 * MiB, attach: 'virtio-scsi', iothread: true },
      ],
    });
    const site = await testSite(t, { bin: qemuBin(qemu) });
    const backup = [
      'backup',
      'vm1',
      '--vault',
      site.vault.path,
      '--qmp',
      vm.qmpSocket,
      '--qemu-bin',
      qemuBin(qemu),
    ];
    const isRunning = async () => {
      const { status } = (await vm.qmp.execute('query-status')) as { status: string };
      return status === 'running' || undefined;
    };
    const points = [await backUpWithTruth(site, vm)];
    for (const [nth, step] of STEPS.entries()) {
      for (const { name } of vm.disks) await vm.write(name, nth + 1, 4 * MiB, 3 * MiB);
      const full = nth % 2 === 0 ? ['--full'] : [];
      const killed = await cli(site, [...backup, ...full], { QMPVAULT_STOP_AT: `${step}:kill` });
      t.equal(killed.signal, 'SIGKILL', `${step}: killed`);
      t.match(killed.stderr, `step ${step}`, `${step}: exactly there`);
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
    const common = ['--vault', site.vault.path, '--qmp', vm.qmpSocket, '--qemu-bin', qemuBin(qemu)];
    const killed = await cli(site, ['backup', 'vm1', ...common], { QMPVAULT_STOP_AT: 'copying' });
    t.equal(killed.signal, 'SIGKILL');
    t.equal((await vm.leftovers()).exports.length, 1, 'it was comparing');
    const second = await backUpWithTruth(site, vm);
    t.equal(second.how, 'resynced');
    for (const point of [first, second]) await expectTruth(t, site, vm, point);
    await expectClean(t, site, vm, { bitmaps: 1 });
  });
}
