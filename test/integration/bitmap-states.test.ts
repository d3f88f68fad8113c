/** Every state a bitmap can be in: what the next backup does, and that the point is right whatever it does. */
import { copyFile, readdir, rm, stat, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { MiB } from '../../src/base/units.ts';
import type { Manifest } from '../../src/vault/manifest.ts';
import { type FixtureVm, type QemuVersion, qemuBin } from '../../vm-fixtures/guestless.ts';
import { backUpWithTruth, expectClean, expectTruth, type TestSite, testSite } from '../helpers/engine.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { testVm } from '../helpers/vm.ts';

interface Case {
  readonly vm: FixtureVm;
  readonly site: TestSite;
  readonly first: Manifest;
  /** The bitmap of the first point on this disk. */
  bitmap(disk: string): Promise<{ node: string; name: string }>;
}

/** Between the first point and the state, and after it, the guest writes to both disks. */
async function change(vm: FixtureVm, pattern: number): Promise<void> {
  for (const { name } of vm.disks) await vm.write(name, pattern, (pattern % 20) * MiB, 2 * MiB);
}

/** name, what happens after the first point, the `how` of the next */
const cases: [string, (given: Case) => Promise<void>, string][] = [
  [
    'removed by hand',
    async ({ vm, bitmap }) => void (await vm.qmp.execute('block-dirty-bitmap-remove', await bitmap('vda'))),
    'resynced',
  ],
  [
    'removed and added again empty, under the same name',
    async ({ vm, bitmap }) => {
      const ref = await bitmap('vda');
      await vm.qmp.execute('block-dirty-bitmap-remove', ref);
      await vm.qmp.execute('block-dirty-bitmap-add', { ...ref, persistent: true, granularity: 65536 });
    },
    'resynced',
  ],
  [
    'cleared',
    async ({ vm, bitmap }) => void (await vm.qmp.execute('block-dirty-bitmap-clear', await bitmap('vdb'))),
    'resynced',
  ],
  [
    'disabled',
    async ({ vm, bitmap }) => void (await vm.qmp.execute('block-dirty-bitmap-disable', await bitmap('vda'))),
    'resynced',
  ],
  [
    'of another granularity',
    async ({ vm, bitmap }) => {
      const ref = await bitmap('vda');
      await vm.qmp.execute('block-dirty-bitmap-remove', ref);
      await vm.qmp.execute('block-dirty-bitmap-add', { ...ref, persistent: true, granularity: 131072 });
    },
    'resynced',
  ],
  [
    'lost with QEMU, killed before it was ever stored',
    async ({ vm }) => {
      await vm.kill();
      await vm.restart();
    },
    'resynced',
  ],
  [
    'inconsistent: QEMU was killed after a restart',
    async ({ vm }) => {
      await vm.restart();
      await change(vm, 5);
      await vm.kill();
      await vm.restart();
    },
    'resynced',
  ],
  ['stored over a restart', ({ vm }) => vm.restart(), 'tracked'],
  [
    'beside one of a foreign tool',
    async ({ vm, bitmap }) => {
      const { node } = await bitmap('vda');
      await vm.qmp.execute('block-dirty-bitmap-add', { node, name: 'foreign-tool-1' });
    },
    'tracked',
  ],
];

for (const qemu of qemuVersions(['7.2', '11.1'])) {
  for (const [title, happen, how] of cases) {
    t.test(`QEMU ${qemu}: a bitmap ${title}: ${how}`, async (t) => {
      const given = await begin(t, qemu);
      const { vm, site, first } = given;
      await change(vm, 2);
      await happen(given);
      await change(vm, 3);
      const second = await backUpWithTruth(site, vm);
      t.equal(second.how, how);
      t.equal(second.parent, first.id);
      t.ok((second.disks[0]?.storedBytes ?? 0) < 8 * MiB, 'it is thin');
      await change(vm, 4);
      const third = await backUpWithTruth(site, vm);
      t.equal(third.how, 'tracked', 'and the next is tracked again');
      for (const point of [first, second, third]) await expectTruth(t, site, vm, point);
      const foreign = (await vm.leftovers()).bitmaps.filter(({ name }) => name === 'foreign-tool-1');
      t.equal(foreign.length, title.includes('foreign') ? 1 : 0, 'what is foreign is left alone');
      for (const { node, name } of foreign) await vm.qmp.execute('block-dirty-bitmap-remove', { node, name });
      await expectClean(t, site, vm, { bitmaps: 1 });
    });
  }

  t.test(`QEMU ${qemu}: rolled back to one and to three points ago`, async (t) => {
    const { vm, site, first } = await begin(t, qemu);
    const points = [first];
    const keep = async (label: string) => {
      await vm.quit();
      for (const { name, image } of vm.disks) await copyFile(image, join(site.dir, `${label}-${name}`));
      await vm.restart();
    };
    const putBack = async (label: string, disks = vm.disks) => {
      await vm.quit();
      for (const { name, image } of disks) await copyFile(join(site.dir, `${label}-${name}`), image);
      await vm.restart();
    };
    const next = async (pattern: number) => {
      await change(vm, pattern);
      const point = await backUpWithTruth(site, vm);
      points.push(point);
      return point;
    };
    await keep('one');
    const second = await next(2);
    await keep('two');
    await next(3);
    await next(4);
    await putBack('two');
    const branched = await next(5);
    t.match(branched, { how: 'branched', parent: second.id });
    await putBack('one');
    t.match(await next(6), { how: 'branched', parent: first.id });
    t.match(await next(7), { how: 'tracked' });
    await putBack('two', vm.disks.slice(0, 1));
    t.match(await next(8), { how: 'resynced', parent: points.at(-2)?.id }, 'one disk alone is compared');
    for (const point of points) await expectTruth(t, site, vm, point);
    await expectClean(t, site, vm, { bitmaps: 1 });
  });

  t.test(`QEMU ${qemu}: a file of the chain that is gone or changed seals it`, async (t) => {
    for (const damage of ['removed', 'shortened'] as const) {
      const { vm, site, first } = await begin(t, qemu);
      await change(vm, 2);
      const second = await backUpWithTruth(site, vm);
      const file = join(site.vault.path, 'vm1', first.id, first.disks[0]?.file ?? '');
      if (damage === 'removed') await rm(file);
      else await truncate(file, (await stat(file)).size - 512);
      await change(vm, 3);
      const third = await backUpWithTruth(site, vm);
      t.match(third, { kind: 'full', how: 'chain-sealed' }, damage);
      await expectTruth(t, site, vm, third);
      const { points } = await site.vault.vm('vm1').points();
      t.strictSame(
        points.map(({ id, sealed }) => [id, sealed]),
        [
          [first.id, true],
          [second.id, false],
          [third.id, false],
        ],
      );
      await expectClean(t, site, vm, { bitmaps: 1 });
    }
  });

  t.test(`QEMU ${qemu}: where contents cannot be compared a full is made, saying why`, async (t) => {
    const { vm, site, first } = await begin(t, qemu);
    const socket = join(vm.dir, 'other-nbd.sock');
    await vm.qmp.execute('nbd-server-start', { addr: { type: 'unix', data: { path: socket } } });
    for (const { node, name } of (await vm.leftovers()).bitmaps)
      await vm.qmp.execute('block-dirty-bitmap-remove', { node, name });
    await change(vm, 2);
    const second = await backUpWithTruth(site, vm);
    t.match(second, { kind: 'full', how: 'bitmap-lost' });
    t.match(second.why, /NBD server/);
    t.ok((await readdir(vm.dir)).includes('other-nbd.sock'), "somebody else's NBD server is left alone");
    await expectTruth(t, site, vm, first);
    await expectTruth(t, site, vm, second);
    await expectClean(t, site, vm, { bitmaps: 1 });
  });

  t.test(`QEMU ${qemu}: a lost bitmap of a disk in an iothread`, async (t) => {
    const { vm, site, first, bitmap } = await begin(t, qemu, { iothread: true });
    await vm.qmp.execute('block-dirty-bitmap-clear', await bitmap('vdb'));
    await change(vm, 2);
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
      const { vm, site, first, bitmap } = await begin(t, qemu);
      await change(vm, 2);
      await vm.qmp.execute('blockdev-add', { driver: 'null-co', 'node-name': 'sink', size: 64 * MiB });
      await vm.qmp.execute('blockdev-backup', {
        'job-id': 'somebody',
        device: 'vda',
        target: 'sink',
        sync: 'bitmap',
        bitmap: (await bitmap('vda')).name,
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

async function begin(t: Test, qemu: QemuVersion, { iothread = false } = {}): Promise<Case> {
  const vm = await testVm(t, {
    qemu,
    disks: [
      { name: 'vda', sizeBytes: 64 * MiB },
      { name: 'vdb', sizeBytes: 64 * MiB, attach: 'virtio-scsi', iothread },
    ],
  });
  const site = await testSite(t, { bin: qemuBin(qemu) });
  for (const { name } of vm.disks) await vm.write(name, 1, 0, 24 * MiB);
  const first = await backUpWithTruth(site, vm);
  const bitmap = async (disk: string) => {
    const name = first.disks.find((entry) => entry.name === disk)?.bitmap?.name ?? '';
    return { node: disk, name };
  };
  return { vm, site, first, bitmap };
}
