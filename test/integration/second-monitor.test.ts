/** Others look at the VM too: whatever they ask while a backup is made, it is the guest that must not pay for it. */
import t from 'tap';
import { backedUpVm } from '../helpers/backed-up-vm.ts';
import { backUpWithTruth, expectClean, expectTruth } from '../helpers/engine.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';

for (const qemu of qemuVersions(['7.2', '11.1'])) {
  t.test(`QEMU ${qemu}: a monitor beside ours that asks for nodes and jobs all the time`, async (t) => {
    const { vm, site, change } = await backedUpVm(t, qemu);
    let asked = 0;
    let over = false;
    const asking = (async () => {
      for (; !over; asked += 1) {
        await vm.qmp.execute('query-named-block-nodes', {});
        await vm.qmp.execute('query-block', {});
        await vm.qmp.execute('query-jobs', {});
      }
    })();
    const points = [];
    for (const pattern of [3, 4, 5, 6]) {
      await change(pattern);
      points.push(await backUpWithTruth(site, vm));
    }
    over = true;
    await asking;
    t.ok(asked > 20, `${asked} times`);
    for (const point of points) {
      t.equal(point.how, 'tracked');
      await expectTruth(t, site, vm, point);
    }
    await expectClean(t, site, vm, { bitmaps: 1 });
  });
}
