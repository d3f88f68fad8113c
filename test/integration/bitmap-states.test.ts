/** Every state a bitmap can be in that is no row of the fault table: what the next backup does, and that the point is right. */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import t from 'tap';
import { MiB } from '../../src/base/units.ts';
import { type BackedUpVm, backedUpVm, expectThinNext, TWO_DISKS } from '../helpers/backed-up-vm.ts';
import { backUpWithTruth, expectClean, expectTruth } from '../helpers/engine.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';

/** name, what happens after the first point, the `how` of the next */
const cases: [string, (given: BackedUpVm) => Promise<void>, 'resynced' | 'tracked'][] = [
  [
    'cleared',
    async ({ vm, bitmap }) => void (await vm.qmp.execute('block-dirty-bitmap-clear', bitmap('vdb'))),
    'resynced',
  ],
  [
    'disabled',
    async ({ vm, bitmap }) => void (await vm.qmp.execute('block-dirty-bitmap-disable', bitmap('vda'))),
    'resynced',
  ],
  [
    'of another granularity',
    async ({ vm, bitmap }) => {
      const ref = bitmap('vda');
      await vm.qmp.execute('block-dirty-bitmap-remove', ref);
      await vm.qmp.execute('block-dirty-bitmap-add', { ...ref, persistent: true, granularity: 131072 });
    },
    'resynced',
  ],
  ['stored over a restart', ({ vm }) => vm.restart(), 'tracked'],
  [
    'beside one of a foreign tool',
    async ({ vm, bitmap }) => {
      const { node } = bitmap('vda');
      await vm.qmp.execute('block-dirty-bitmap-add', { node, name: 'foreign-tool-1' });
    },
    'tracked',
  ],
];

for (const qemu of qemuVersions(['7.2', '11.1'])) {
  for (const [title, happen, how] of cases) {
    t.test(`QEMU ${qemu}: a bitmap ${title}: ${how}`, async (t) => {
      const given = await backedUpVm(t, qemu);
      await happen(given);
      await expectThinNext(t, given, how);
      const { vm, site } = given;
      const foreign = (await vm.leftovers()).bitmaps.filter(({ name }) => name === 'foreign-tool-1');
      t.equal(foreign.length, title.includes('foreign') ? 1 : 0, 'what is foreign is left alone');
      for (const { node, name } of foreign) await vm.qmp.execute('block-dirty-bitmap-remove', { node, name });
      await expectClean(t, site, vm, { bitmaps: 1 });
    });
  }

  t.test(`QEMU ${qemu}: where contents cannot be compared a full is made, saying why`, async (t) => {
    const { vm, site, first } = await backedUpVm(t, qemu);
    const socket = join(vm.dir, 'other-nbd.sock');
    await vm.qmp.execute('nbd-server-start', { addr: { type: 'unix', data: { path: socket } } });
    for (const { node, name } of (await vm.leftovers()).bitmaps)
      await vm.qmp.execute('block-dirty-bitmap-remove', { node, name });
    const second = await backUpWithTruth(site, vm);
    t.match(second, { kind: 'full', how: 'bitmap-lost' });
    t.match(second.why, /NBD server/);
    t.ok((await readdir(vm.dir)).includes('other-nbd.sock'), "somebody else's NBD server is left alone");
    await expectTruth(t, site, vm, first);
    await expectTruth(t, site, vm, second);
    await expectClean(t, site, vm, { bitmaps: 1 });
  });

  t.test(`QEMU ${qemu}: a lost bitmap of a disk in an iothread`, async (t) => {
    const { vm, site, first, bitmap } = await backedUpVm(t, qemu, {
      disks: TWO_DISKS.map((disk) => ({ ...disk, iothread: disk.name === 'vdb' })),
    });
    await vm.qmp.execute('block-dirty-bitmap-clear', bitmap('vdb'));
    const second = await backUpWithTruth(site, vm);
    // The NBD server of the older one could abort the VM (Vm.whyNoExport).
    t.equal(second.how, qemu === '7.2' ? 'bitmap-lost' : 'resynced');
    await expectTruth(t, site, vm, first);
    await expectTruth(t, site, vm, second);
    await expectClean(t, site, vm, { bitmaps: 1 });
  });

  t.test(
    `QEMU ${qemu}: a bitmap that somebody else's job is using is waited for, and then named`,
    async (t) => {
      const { vm, site, first, bitmap } = await backedUpVm(t, qemu);
      await vm.qmp.execute('blockdev-add', { driver: 'null-co', 'node-name': 'sink', size: 64 * MiB });
      await vm.qmp.execute('blockdev-backup', {
        'job-id': 'somebody',
        device: 'vda',
        target: 'sink',
        sync: 'bitmap',
        bitmap: bitmap('vda').name,
        'bitmap-mode': 'never',
        speed: 1,
      });
      await t.rejects(site.backUp(vm, { busyTimeoutMs: 300 }), {
        code: 'vm-busy',
        details: { disks: ['vda'], jobs: ['somebody'] },
      });
      const waiting = site.backUp(vm);
      await vm.qmp.execute('job-cancel', { id: 'somebody' });
      const { point } = await waiting;
      t.match(point, { how: 'tracked', parent: first.id });
      await expectClean(t, site, vm, { bitmaps: 1 });
    },
  );
}
