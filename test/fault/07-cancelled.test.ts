/** Row 7: cancelled in the middle of a run, by the caller and by SIGTERM. */

import t from 'tap';
import { until } from '../../src/base/deadline.ts';
import type { Step } from '../../src/base/steps.ts';
import { MiB } from '../../src/base/units.ts';
import { qemuBin } from '../../vm-fixtures/guestless.ts';
import { cli } from '../helpers/cli.ts';
import { backUpWithTruth, expectClean, expectTruth, testSite } from '../helpers/engine.ts';
import { expectUnharmed, GuestWriter } from '../helpers/guest-writer.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { testVm } from '../helpers/vm.ts';

for (const qemu of qemuVersions(['7.2', '11.1'])) {
  t.test(`QEMU ${qemu}: a cancelled backup leaves VM and vault as they were`, async (t) => {
    const vm = await testVm(t, {
      qemu,
      disks: [
        { name: 'vda', sizeBytes: 64 * MiB },
        { name: 'vdb', sizeBytes: 64 * MiB, attach: 'ahci' },
      ],
    });
    const site = await testSite(t, { bin: qemuBin(qemu) });
    const fill = async (pattern: number) => {
      for (const { name } of vm.disks) await vm.write(name, pattern, 16 * MiB, 24 * MiB);
    };
    await fill(1);
    const first = await backUpWithTruth(site, vm);
    await fill(2);

    const guest = await GuestWriter.start(vm, 'vda');
    const controller = new AbortController();
    const steps = async (step: Step) => {
      if (step === 'copying') controller.abort();
    };
    const run = site.backUp(vm, { bandwidth: MiB, steps, signal: controller.signal });
    await t.rejects(run, { code: 'cancelled' }, 'by the caller');
    await expectClean(t, site, vm, { bitmaps: 1 });

    const backup = [
      'backup',
      'vm1',
      '--vault',
      site.vault.path,
      '--qmp',
      vm.qmpSocket,
      '--bandwidth',
      '1MiB/s',
    ];
    const running = cli(site, [...backup, '--qemu-bin', qemuBin(qemu)]);
    const copying = async () => (await vm.leftovers()).jobs.length === 2 || undefined;
    await until(copying, { what: 'the copy to begin', timeoutMs: 20_000, everyMs: 20 });
    running.kill('SIGTERM');
    const { exitCode, stdout } = await running;
    t.equal(exitCode, 130);
    t.match(JSON.parse(stdout), { error: { code: 'cancelled' } });
    await expectUnharmed(t, guest);
    await expectClean(t, site, vm, { bitmaps: 1 });

    const second = await backUpWithTruth(site, vm);
    t.equal(second.how, 'tracked');
    await expectTruth(t, site, vm, first);
    await expectTruth(t, site, vm, second);
  });
}
