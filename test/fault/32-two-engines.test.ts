/** Row 32: two engines work on one vault. */

import { join } from 'node:path';
import t from 'tap';
import { backUp } from '../../src/backup/backup.ts';
import { until } from '../../src/base/deadline.ts';
import { vmName } from '../../src/base/ids.ts';
import type { Step } from '../../src/base/steps.ts';
import { MiB } from '../../src/base/units.ts';
import { deletePoint } from '../../src/upkeep/delete.ts';
import { qemuBin } from '../../vm-fixtures/guestless.ts';
import { backedUpVm, TWO_DISKS } from '../helpers/backed-up-vm.ts';
import { backUpWithTruth, expectClean, expectTruth, testSite } from '../helpers/engine.ts';
import { HandMadeVault } from '../helpers/hand-made-vault.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { tempDir } from '../helpers/temp-dir.ts';
import { assertAllPoints, upkeepEngine } from '../helpers/upkeep.ts';
import { testVm } from '../helpers/vm.ts';

for (const qemu of qemuVersions(['7.2', '11.1'])) {
  t.test(
    `QEMU ${qemu}: while one backs a VM up, the others are refused; of other VMs they are not`,
    async (t) => {
      // QEMU serves one client on each socket: on another one the second engine gets as far as the lease.
      const qmp = join(tempDir(t), 'second.sock');
      const { vm, site, first, change } = await backedUpVm(t, qemu, {
        extraArgs: ['-qmp', `unix:${qmp},server=on,wait=off`],
      });
      const other = await testVm(t, { qemu, disks: TWO_DISKS });
      const elsewhere = await testSite(t, { bin: qemuBin(qemu) });
      let met = false;
      const steps = async (step: Step) => {
        if (step !== 'copying') return;
        await t.rejects(site.backUp(vm, { qmp }), { code: 'vault-locked' }, 'the same VM');
        await t.rejects(
          deletePoint(upkeepEngine(t), site.vault, {
            vm: vmName('vm1'),
            point: first.id,
            descendants: 'delete',
          }),
          { code: 'vault-locked' },
          'its points',
        );
        const request = { vm: vmName('vm2'), qmp: other.qmpSocket, quiesce: 'auto', fullEvery: 10 } as const;
        t.equal((await backUp(site.engine, site.vault, request, {})).point.how, 'first', 'another VM');
        met = true;
      };
      t.equal((await site.backUp(vm, { steps })).point.how, 'tracked');
      t.ok(met);

      // An engine that shares no journal with the first (another host's) tells a living run by its jobs.
      const cancelled = new AbortController();
      const run = site.backUp(vm, { full: true, bandwidth: 4 * MiB, signal: cancelled.signal });
      run.catch(() => {});
      const copying = async () => (await vm.leftovers()).jobs.length === 2 || undefined;
      await until(copying, { what: 'the copy to begin' });
      await t.rejects(elsewhere.backUp(vm, { qmp }), { code: 'vm-busy' }, 'the same VM, to another vault');
      cancelled.abort();
      await t.rejects(run, { code: 'cancelled' });
      await change(3);
      const next = await backUpWithTruth(site, vm);
      t.equal(next.how, 'tracked');
      for (const made of [first, next]) await expectTruth(t, site, vm, made);
      await expectClean(t, site, vm, { bitmaps: 1 });
      await expectClean(t, elsewhere, vm, { bitmaps: 1 });
      await expectClean(t, site, other, { bitmaps: 1 });
    },
  );
}

t.test('two deletes at once: one is refused, or waits for the other', async (t) => {
  const made = await HandMadeVault.withChain(t);
  const arrived = Promise.withResolvers<void>();
  const leave = Promise.withResolvers<void>();
  const steps = async (step: Step) => {
    if (step !== 'delete-journal') return;
    arrived.resolve();
    await leave.promise;
  };
  const p2 = { vm: vmName('web1'), point: 'p2', descendants: 'refuse' } as const;
  const first = deletePoint(upkeepEngine(t, { steps }), made.vault, p2);
  await arrived.promise;
  const p3 = { ...p2, point: 'p3' };
  await t.rejects(deletePoint(upkeepEngine(t), made.vault, p3), { code: 'vault-locked' });
  const second = deletePoint(upkeepEngine(t), made.vault, { ...p3, waitMs: 30_000 });
  leave.resolve();
  t.strictSame((await first).removed, ['p2']);
  t.strictSame((await second).removed, ['p3']);
  await assertAllPoints(t, made, made.vault.vm('web1'));
});
