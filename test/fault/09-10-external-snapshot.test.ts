/** Rows 9 and 10: an external snapshot was taken between two points, and committed back. */
import { join } from 'node:path';
import t from 'tap';
import { MiB } from '../../src/base/units.ts';
import type { FixtureVm } from '../../vm-fixtures/guestless.ts';
import { backedUpVm } from '../helpers/backed-up-vm.ts';
import { backUpWithTruth, expectTruth } from '../helpers/engine.ts';
import { takeSnapshot } from '../helpers/external-snapshot.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';

for (const qemu of qemuVersions(['7.2', '11.1'])) {
  t.test(`QEMU ${qemu}: an external snapshot was taken, and committed back`, async (t) => {
    const { vm, site, first } = await backedUpVm(t, qemu);
    await takeSnapshot(vm, { node: 'vda' }, join(vm.dir, 'snap.qcow2'));
    await vm.write('vda', 3, 30 * MiB, MiB);
    const second = await backUpWithTruth(site, vm);
    t.match(second, { how: 'resynced', parent: first.id });
    await vm.write('vda', 4, 31 * MiB, MiB);
    await commitBack(vm, 'overlay');
    await vm.write('vda', 5, 32 * MiB, MiB);
    const third = await backUpWithTruth(site, vm);
    t.match(third, { kind: 'incremental', parent: second.id });
    await vm.write('vda', 6, 33 * MiB, MiB);
    const fourth = await backUpWithTruth(site, vm);
    t.match(fourth, { how: 'tracked' });
    for (const point of [first, second, third, fourth]) await expectTruth(t, site, vm, point);
  });
}

async function commitBack(vm: FixtureVm, device: string): Promise<void> {
  const events = vm.qmp.listen();
  await vm.qmp.execute('block-commit', { 'job-id': 'commit', device });
  for await (const { name } of events) {
    if (name === 'BLOCK_JOB_READY') await vm.qmp.execute('block-job-complete', { device: 'commit' });
    if (name === 'BLOCK_JOB_COMPLETED') break;
  }
  events.close();
}
