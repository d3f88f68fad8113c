/** VMs that do not run: backed up from their images, and going on where that left off once they run again. */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import t, { type Test } from 'tap';
import { backUp } from '../../src/backup/backup.ts';
import { inspectVm } from '../../src/backup/inspect.ts';
import { diskName, type VmName } from '../../src/base/ids.ts';
import { noSteps, type ReachStep, type Step } from '../../src/base/steps.ts';
import { MiB } from '../../src/base/units.ts';
import type { Manifest } from '../../src/vault/manifest.ts';
import { type DiskSpec, type FixtureVm, type QemuVersion, qemuBin } from '../../vm-fixtures/guestless.ts';
import { backUpWithTruth, expectClean, expectTruth, type TestSite, testSite } from '../helpers/engine.ts';
import { difference, sha256 } from '../helpers/images.ts';
import { loopDevice } from '../helpers/loop-device.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { expectCleanImages } from '../helpers/stopped.ts';
import { testVm } from '../helpers/vm.ts';

const DISKS: readonly DiskSpec[] = [
  { name: 'vda', sizeBytes: 64 * MiB, withBacking: true },
  { name: 'vdb', sizeBytes: 64 * MiB, attach: 'virtio-scsi' },
];

interface Given {
  readonly vm: FixtureVm;
  readonly site: TestSite;
  readonly points: Manifest[];
  /** Writes to both disks of the running VM. */
  write(pattern: number): Promise<void>;
  /** Backs up, checks how, and keeps the point. */
  expect(how: Manifest['how']): Promise<Manifest>;
}

async function begin(t: Test, qemu: QemuVersion, disks = DISKS): Promise<Given> {
  const vm = await testVm(t, { qemu, disks });
  const site = await testSite(t, { bin: qemuBin(qemu) });
  const points: Manifest[] = [];
  const write = async (pattern: number) => {
    for (const { name } of vm.disks) await vm.write(name, pattern, (pattern % 20) * MiB, 2 * MiB);
  };
  const expect = async (how: Manifest['how']) => {
    const point = await backUpWithTruth(site, vm);
    t.equal(point.how, how, point.why);
    points.push(point);
    return point;
  };
  return { vm, site, points, write, expect };
}

async function expectAllTrue(t: Test, { site, vm, points }: Given): Promise<void> {
  for (const point of points) await expectTruth(t, site, vm, point);
}

for (const qemu of qemuVersions(['7.2', '11.1'])) {
  t.test(`QEMU ${qemu}: stopped, started and stopped again, every increment is tracked`, async (t) => {
    const given = await begin(t, qemu);
    const { vm, write, expect } = given;
    await write(1);
    await expect('first');
    await write(2);
    await vm.quit();
    const stopped = await expect('tracked');
    t.ok((stopped.disks[0]?.copiedBytes ?? 0) <= 3 * MiB, 'what changed is copied, and the pattern');
    await expectCleanImages(t, given.site, vm, { bitmaps: 1 });
    await expect('tracked');
    await vm.restart();
    await write(3);
    await expect('tracked');
    await write(4);
    await vm.quit();
    await expect('tracked');
    await expectAllTrue(t, given);
    await expectCleanImages(t, given.site, vm, { bitmaps: 1 });
  });

  t.test(`QEMU ${qemu}: a stopped VM whose QEMU was killed is compared with its last point`, async (t) => {
    const given = await begin(t, qemu);
    const { vm, write, expect } = given;
    await write(1);
    await expect('first');
    await vm.restart();
    await write(2);
    await vm.kill();
    const point = await expect('resynced');
    t.ok((point.disks[0]?.storedBytes ?? 0) < 4 * MiB, 'it is thin');
    await expectCleanImages(t, given.site, vm, { bitmaps: 1 });
    await vm.restart();
    await write(3);
    await expect('tracked');
    await expectAllTrue(t, given);
  });

  t.test(`QEMU ${qemu}: a VM that was never seen running, from the images that are named`, async (t) => {
    const given = await begin(t, qemu);
    const { vm, site, write, expect, points } = given;
    await write(1);
    await vm.quit();
    await t.rejects(site.backUp(vm, { qmp: undefined }), { code: 'usage' }, 'nothing is known of it');
    await t.rejects(site.backUp(vm), { code: 'vm-unreachable' });
    const images = new Map(vm.disks.map(({ name, image }) => [diskName(name), image]));
    points.push(await backUpWithTruth(site, vm, { qmp: undefined, images }));
    t.match(points[0], { kind: 'full', how: 'first', vm: { uuid: '' }, consistency: 'crash' });
    t.match(await site.vault.vm('vm1' as VmName).readRecord(), { disks: [{ format: 'qcow2' }, {}] });
    await expectCleanImages(t, site, vm, { bitmaps: 1 });
    await expect('tracked');
    await vm.restart();
    await write(2);
    const running = await expect('tracked');
    t.not(running.vm.uuid, '', 'from now on it has a UUID');
    await vm.quit();
    await expect('tracked');
    await expectAllTrue(t, given);
  });

  t.test(`QEMU ${qemu}: a raw disk, and a disk that is left out`, async (t) => {
    const given = await begin(t, qemu, [...DISKS, { name: 'vdc', sizeBytes: 64 * MiB, format: 'raw' }]);
    const { vm, site, write, expect, points } = given;
    await write(1);
    await expect('first');
    await write(2);
    await vm.quit();
    const point = await expect('resynced');
    t.strictSame(
      point.disks.map(({ bitmap }) => bitmap === null),
      [false, false, true],
      'what keeps no bitmap has none',
    );
    await expectCleanImages(t, site, vm, { bitmaps: 1 });
    await rm(vm.disk('vdb').image);
    await t.rejects(site.backUp(vm), { code: 'vm-unfit', details: { disk: 'vdb' } });
    const { point: less } = await site.backUp(vm, { exclude: [diskName('vdb')] });
    t.match(less, { left: [{ name: 'vdb' }], disks: [{ name: 'vda' }, { name: 'vdc' }] });
    const record = await site.vault.vm('vm1' as VmName).readRecord();
    t.ok(
      record?.disks.some(({ name }) => name === 'vdb'),
      'it is still known',
    );
    for (const made of points) await expectTruth(t, site, vm, made);
  });

  t.test(`QEMU ${qemu}: a VM that runs is not taken for stopped`, async (t) => {
    const given = await begin(t, qemu, [
      DISKS[0] as DiskSpec,
      { name: 'vdc', sizeBytes: MiB, format: 'raw' },
    ]);
    const { vm, site, expect } = given;
    await expect('first');
    await t.rejects(site.backUp(vm, { qmp: undefined }), { code: 'vm-busy' }, 'its images are locked');
    const raw = new Map([[diskName('vdc'), vm.disk('vdc').image]]);
    const without = { qmp: undefined, images: raw, exclude: [diskName('vda')] };
    await t.rejects(site.backUp(vm, without), { code: 'vm-busy' }, 'a raw one, too');
    process.kill(vm.pid, 'SIGSTOP');
    try {
      await t.rejects(site.backUp(vm), { code: 'vm-busy' }, 'QEMU is alive, but does not answer');
      await t.rejects(site.backUp(vm, { qmp: undefined }), { code: 'vm-busy' });
    } finally {
      process.kill(vm.pid, 'SIGCONT');
    }
    await vm.stop();
    await expect('tracked');
    await expectClean(t, site, vm, { bitmaps: 1 });
    await expectAllTrue(t, given);
  });

  t.test(`QEMU ${qemu}: inspecting a stopped VM shows its bitmaps, and changes nothing`, async (t) => {
    const given = await begin(t, qemu);
    const { vm, site, write, expect } = given;
    await write(1);
    await expect('first');
    await write(2);
    await vm.quit();
    const before = await Promise.all(vm.disks.map(({ image }) => sha256(image)));
    const request = { vm: 'vm1' as VmName, qmp: vm.qmpSocket, fullEvery: 10 };
    const found = await inspectVm(site.engine, site.vault, request);
    t.match(found, {
      vm: { state: 'stopped' },
      disks: [{ name: 'vda', format: 'qcow2', bitmap: { state: 'tracked', words: /MiB changed since/ } }, {}],
      next: { kind: 'incremental', how: 'tracked' },
    });
    const images = new Map([[diskName('vda'), vm.disk('vda').image]]);
    t.match(await inspectVm(site.engine, null, { vm: request.vm, images, fullEvery: 10 }), {
      disks: [{ name: 'vda', sizeBytes: 64 * MiB }],
      next: null,
    });
    t.strictSame(await Promise.all(vm.disks.map(({ image }) => sha256(image))), before);
    await expectCleanImages(t, site, vm, { bitmaps: 1 });
  });

  t.test(`QEMU ${qemu}: a snapshot was taken since the last backup, and the VM stopped`, async (t) => {
    const given = await begin(t, qemu);
    const { vm, site, write, expect, points } = given;
    await write(1);
    await expect('first');
    await write(2);
    const overlay = join(vm.dir, 'vdb-snapshot.qcow2');
    const snapshot = { 'node-name': 'vdb', 'snapshot-node-name': 'vdb-snapshot', 'snapshot-file': overlay };
    await vm.qmp.execute('blockdev-snapshot-sync', snapshot);
    await write(3);
    await vm.quit();
    const details = { disk: 'vdb', overlay };
    await t.rejects(site.backUp(vm), { code: 'vm-unfit', details }, 'what is remembered is old');
    vm.disk('vdb').image = overlay;
    points.push(await backUpWithTruth(site, vm, { images: new Map([[diskName('vdb'), overlay]]) }));
    t.equal(points.at(-1)?.how, 'resynced');
    await expect('tracked');
    await expectAllTrue(t, given);
  });

  t.test(`QEMU ${qemu}: cancelled, and resized while it was stopped`, async (t) => {
    const given = await begin(t, qemu, DISKS.slice(1));
    const { vm, site, write, expect } = given;
    await write(1);
    await expect('first');
    await write(2);
    await vm.quit();
    const cancelling = new AbortController();
    const steps = async (step: Step) => {
      if (step === 'copying') cancelling.abort();
    };
    await t.rejects(site.backUp(vm, { steps, signal: cancelling.signal }), { code: 'cancelled' });
    await expectCleanImages(t, site, vm, { bitmaps: 1 });
    await execa(site.engine.tools.qemuImg, ['resize', '-q', vm.disk('vdb').image, '80M']);
    await expect('tracked');
    await vm.restart();
    await vm.write('vdb', 9, 70 * MiB, MiB);
    await expect('tracked');
    await expectAllTrue(t, given);
  });
}

t.test('a block device that keeps no bitmap shows by its counters that it was written to', async (t) => {
  const device = loopDevice(t, 4 * MiB, 1);
  const site = await testSite(t);
  const images = new Map([[diskName('vda'), device]]);
  const request = { vm: 'vm1' as VmName, quiesce: 'auto', fullEvery: 10, images } as const;
  const writing: ReachStep = async (step) => {
    if (step === 'copying')
      await execa('qemu-io', ['-f', 'raw', '-t', 'none', '-c', 'write -P 2 0 64k', device]);
  };
  const run = (reachStep = noSteps) => backUp({ ...site.engine, reachStep }, site.vault, request, {});
  const { point } = await run();
  t.match(point, { how: 'first', disks: [{ bitmap: null, source: { image: device, format: 'raw' } }] });
  await t.rejects(run(writing), { code: 'run-overtaken' });
  t.equal((await run()).point.how, 'resynced');
  const file = join(
    site.vault.path,
    'vm1',
    (await site.vault.vm(request.vm).points()).points.at(-1)?.id ?? '',
  );
  t.equal(await difference(join(file, 'vda.qcow2'), device), null);
});
