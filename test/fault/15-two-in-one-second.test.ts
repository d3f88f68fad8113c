/** Row 15: two backups in one second, by a clock that stands still, and one by a clock that was set back. */
import { mock } from 'node:test';
import t from 'tap';
import { backedUpVm } from '../helpers/backed-up-vm.ts';
import { backUpWithTruth, expectClean, expectTruth } from '../helpers/engine.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';

for (const qemu of qemuVersions(['7.2'])) {
  t.test(`QEMU ${qemu}: two points of one millisecond are two, in their order`, async (t) => {
    const { vm, site, first, change } = await backedUpVm(t, qemu);
    t.teardown(() => mock.timers.reset());
    const points = [first];
    const hour = 3_600_000;
    const now = Date.parse(first.createdAt) + hour;
    for (const [nth, at] of [now, now, now, now - 2 * hour].entries()) {
      // Only what Date says; whatever waits goes on waiting for real.
      mock.timers.enable({ apis: ['Date'], now: at });
      await change(3 + nth);
      const point = await backUpWithTruth(site, vm);
      mock.timers.reset();
      t.match(point, { how: 'tracked', parent: points.at(-1)?.id, createdAt: new Date(at).toISOString() });
      points.push(point);
    }
    t.equal(new Set(points.map(({ id }) => id)).size, points.length);
    const listed = (await site.vault.vm('vm1').points()).points;
    t.strictSame(
      listed.map(({ id }) => id),
      points.map(({ id }) => id),
    );
    for (const point of points) await expectTruth(t, site, vm, point);
    await expectClean(t, site, vm, { bitmaps: 1 });
  });

  t.test(`QEMU ${qemu}: a name that is taken is refused, and the point that has it stays`, async (t) => {
    const { vm, site, first } = await backedUpVm(t, qemu);
    await t.rejects(site.backUp(vm, { point: first.id }), { code: 'point-exists' });
    await expectTruth(t, site, vm, first);
    await expectClean(t, site, vm, { bitmaps: 1 });
  });
}
