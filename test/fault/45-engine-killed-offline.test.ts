/** Row 45, and rows 1 and 2 of a stopped VM: the engine is killed at each step of an offline run. */
import t from 'tap';
import { MiB } from '../../src/base/units.ts';
import { qemuBin } from '../../vm-fixtures/guestless.ts';
import { cli } from '../helpers/cli.ts';
import { backUpWithTruth, expectClean, expectTruth, testSite } from '../helpers/engine.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { expectCleanImages } from '../helpers/stopped.ts';
import { testVm } from '../helpers/vm.ts';

const STEPS = [
  'journal',
  'staging',
  'bitmaps',
  'jobs',
  'copying',
  'copied',
  'identity',
  'synced',
  'publish',
  'published',
];

for (const qemu of qemuVersions(['7.2', '11.1'])) {
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
        const backup = ['backup', 'vm1', '--vault', site.vault.path, '--qemu-bin', qemuBin(qemu)];
        const points = [await backUpWithTruth(site, vm)];
        for (const [nth, step] of STEPS.entries()) {
          await change(nth + 1);
          await vm.quit();
          const full = nth % 2 === 0 ? ['--full'] : [];
          const killed = await cli(site, [...backup, ...full], { QMPVAULT_STOP_AT: `${step}:kill` });
          t.equal(killed.signal, 'SIGKILL', `${step}: killed`);
          t.match(killed.stderr, `step ${step}`, `${step}: exactly there`);
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
