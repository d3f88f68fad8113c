/** Row 26: of two disks one fails, where it is read or where it is written; both are undone. */

import t from 'tap';
import type { Step } from '../../src/base/steps.ts';
import { MiB } from '../../src/base/units.ts';
import { qemuBin } from '../../vm-fixtures/guestless.ts';
import { backedUpVm } from '../helpers/backed-up-vm.ts';
import { breakNode, type Fault } from '../helpers/broken-node.ts';
import { backUpWithTruth, expectClean, expectTruth, testSite } from '../helpers/engine.ts';
import { expectUnharmed, GuestWriter } from '../helpers/guest-writer.ts';
import { TARGET_OPTIONS, targetNode, withOpenWriter } from '../helpers/open-writer.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { testVm } from '../helpers/vm.ts';

/** Of the second disk: where it fails, and what the run ends with. */
const FAULTS: readonly { where: 'source' | 'target'; fault: Fault; code: string; details: object }[] = [
  {
    where: 'source',
    fault: { event: 'read_aio', iotype: 'read', error: 'EIO' },
    code: 'run-failed',
    // The job met it, or the snapshot broke when the guest's write did.
    details: { disk: 1, error: /Input\/output error|Permission denied/ },
  },
  {
    where: 'target',
    fault: { event: 'write_aio', error: 'EIO' },
    code: 'run-failed',
    details: { disk: 1, error: 'Input/output error' },
  },
  {
    where: 'target',
    fault: { event: 'cluster_alloc', error: 'ENOSPC' },
    code: 'vault-full',
    details: { disk: 1, error: 'No space left on device' },
  },
  // Tables that are written last, when the copy is flushed.
  {
    where: 'target',
    fault: { event: 'l2_update', error: 'EIO' },
    code: 'run-failed',
    details: { disk: 1, error: 'Input/output error' },
  },
];

for (const qemu of qemuVersions(['7.2', '11.1'])) {
  for (const withoutSnapshot of [false, true]) {
    const way = withoutSnapshot ? ', read from the source,' : '';
    t.test(`QEMU ${qemu}: one target of two${way} fails, and both are undone`, async (t) => {
      const vm = await testVm(t, {
        qemu,
        disks: [
          { name: 'vda', sizeBytes: 64 * MiB },
          { name: 'vdb', sizeBytes: 64 * MiB },
        ],
      });
      const site = await testSite(t, { bin: qemuBin(qemu) });
      for (const { name } of vm.disks) await vm.write(name, 1, 0, 32 * MiB);
      const first = await backUpWithTruth(site, vm, { withoutSnapshot });
      for (const { name } of vm.disks) await vm.write(name, 2, 0, 32 * MiB);

      let fired = false;
      const steps = async (step: Step) => {
        if (step !== 'copying') return;
        const { nodes } = await vm.leftovers();
        const target = nodes.find((node) => node.endsWith('-t1'));
        await vm.qmp.execute('yank', { instances: [{ type: 'block-node', 'node-name': target }] });
        fired = true;
      };
      await t.rejects(site.backUp(vm, { bandwidth: 4 * MiB, steps, withoutSnapshot }), {
        code: 'run-failed',
        details: { disk: 1 },
      });
      t.ok(fired, 'the target failed');
      await expectClean(t, site, vm, { bitmaps: 1 });

      const second = await backUpWithTruth(site, vm, { withoutSnapshot });
      t.equal(second.how, 'tracked');
      await expectTruth(t, site, vm, first);
      await expectTruth(t, site, vm, second);
    });
  }

  t.test(
    `QEMU ${qemu}: of two disks one cannot be read, or written to the NAS: both are undone`,
    async (t) => {
      const { vm, site, first, change } = await backedUpVm(t, qemu);
      const open = withOpenWriter(t, site);
      const failed = vm.qmp.listen(({ name }) => name === 'BLOCK_JOB_ERROR');
      for (const { where, fault, code, details } of FAULTS) {
        let mend: (() => Promise<void>) | undefined;
        const steps = async (step: Step) => {
          if (step !== 'targets') return;
          mend =
            where === 'source'
              ? await breakNode(vm.qmp, { node: 'vdb' }, fault)
              : await breakNode(
                  await open.monitor(),
                  { node: targetNode(1), options: TARGET_OPTIONS },
                  fault,
                );
          // What is overwritten now has to be read before, and cannot be: that is not the guest's concern.
          if (where === 'source') await vm.write('vdb', 7, 8 * MiB, 65536);
        };
        const what = `${where}: ${fault.error} at ${fault.event}`;
        const guests = await Promise.all(vm.disks.map(({ name }) => GuestWriter.start(vm, name)));
        await t.rejects(open.backUp(vm, { full: true, steps }), { code, details }, what);
        for (const guest of guests) {
          await guest.progress(5);
          await expectUnharmed(t, guest);
        }
        t.ok(mend, `${what}: it was broken`);
        if (where === 'source') await mend?.();
        const said = failed.take().map(({ data }) => data['operation']);
        if (fault.event !== 'l2_update') t.ok(said.length > 0, `${what}: QEMU met it in ${said}`);
        await expectClean(t, site, vm, { bitmaps: 1 });
      }
      await change(3);
      const next = await backUpWithTruth(site, vm);
      t.equal(next.how, 'tracked');
      for (const point of [first, next]) await expectTruth(t, site, vm, point);
    },
  );
}
