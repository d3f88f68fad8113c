/** Row 26: of two targets one fails; both are undone. */
import t from 'tap';
import { MiB } from '../../src/base/units.ts';
import { qemuBin } from '../../vm-fixtures/guestless.ts';
import { backUpWithTruth, expectClean, expectTruth, testSite } from '../helpers/engine.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { testVm } from '../helpers/vm.ts';

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
      const steps = async (step: string) => {
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
}
