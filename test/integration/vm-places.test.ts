/** Images that move: under another name, to another place, with their data in another file. */
import { join } from 'node:path';
import { execa } from 'execa';
import t, { type Test } from 'tap';
import { MiB } from '../../src/base/units.ts';
import { type DiskSpec, type QemuVersion, qemuBin } from '../../vm-fixtures/guestless.ts';
import { backUpWithTruth, expectClean, expectTruth, testSite } from '../helpers/engine.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { tempDir } from '../helpers/temp-dir.ts';
import { testVm } from '../helpers/vm.ts';

const UUID = '11111111-2222-3333-4444-555555555555';

async function begin(t: Test, qemu: QemuVersion, disks: DiskSpec[], dir?: string) {
  const vm = await testVm(t, { qemu, disks, uuid: UUID, name: 'before', ...(dir && { dir }) });
  const site = await testSite(t, { bin: qemuBin(qemu) });
  for (const { name } of vm.disks) await vm.write(name, 1, 0, 8 * MiB);
  const first = await backUpWithTruth(site, vm);
  for (const { name } of vm.disks) await vm.write(name, 2, 10 * MiB, MiB);
  return { vm, site, first };
}

for (const qemu of qemuVersions(['7.2', '11.1'])) {
  t.test(`QEMU ${qemu}: an image under another name is another disk, and copied in full`, async (t) => {
    const disks: DiskSpec[] = [
      { name: 'vda', sizeBytes: 32 * MiB },
      { name: 'vdb', sizeBytes: 32 * MiB },
    ];
    const { vm, site, first } = await begin(t, qemu, disks);
    await vm.quit();
    const renamed = await testVm(t, {
      qemu,
      dir: vm.dir,
      uuid: UUID,
      disks: [disks[0] as DiskSpec, { name: 'data', sizeBytes: 32 * MiB }],
    });
    await renamed.restart({ images: { data: vm.disk('vdb').image } });
    const second = await backUpWithTruth(site, renamed);
    t.match(second, { how: 'tracked', why: /data is not in .*vdb of .* is no longer there/ });
    t.strictSame(
      second.disks.map(({ name, kind }) => [name, kind]),
      [
        ['vda', 'incremental'],
        ['data', 'full'],
      ],
    );
    await expectTruth(t, site, vm, first);
    await expectTruth(t, site, renamed, second);
    await expectClean(t, site, renamed, { bitmaps: 1 });
  });

  t.test(`QEMU ${qemu}: two images that changed places are compared`, async (t) => {
    const disks: DiskSpec[] = [
      { name: 'vda', sizeBytes: 32 * MiB },
      { name: 'vdb', sizeBytes: 32 * MiB },
    ];
    const { vm, site, first } = await begin(t, qemu, disks);
    await vm.write('vda', 5, 20 * MiB, MiB);
    await vm.restart({ images: { vda: vm.disk('vdb').image, vdb: vm.disk('vda').image } });
    const second = await backUpWithTruth(site, vm);
    t.equal(second.how, 'resynced');
    for (const point of [first, second]) await expectTruth(t, site, vm, point);
    await expectClean(t, site, vm, { bitmaps: 1 });
  });

  t.test(`QEMU ${qemu}: a disk whose storage was migrated is compared`, async (t) => {
    const { vm, site, first } = await begin(t, qemu, [{ name: 'vda', sizeBytes: 32 * MiB }]);
    const target = join(vm.dir, 'elsewhere.qcow2');
    const events = vm.qmp.listen();
    await vm.qmp.execute('drive-mirror', {
      'job-id': 'move',
      device: 'vda',
      target,
      format: 'qcow2',
      sync: 'full',
      'node-name': 'moved',
    });
    for await (const { name } of events) {
      if (name === 'BLOCK_JOB_READY') await vm.qmp.execute('block-job-complete', { device: 'move' });
      if (name === 'BLOCK_JOB_COMPLETED') break;
    }
    events.close();
    await vm.write('vda', 3, 20 * MiB, MiB);
    const second = await backUpWithTruth(site, vm);
    t.equal(second.how, 'resynced');
    await vm.write('vda', 4, 21 * MiB, MiB);
    const third = await backUpWithTruth(site, vm);
    t.equal(third.how, 'tracked');
    for (const point of [first, second, third]) await expectTruth(t, site, vm, point);
  });

  t.test(`QEMU ${qemu}: a qcow2 with raw external data keeps its bitmap over a restart`, async (t) => {
    const dir = tempDir(t);
    const [image, data] = [join(dir, 'vda.qcow2'), join(dir, 'vda.data')];
    const options = `data_file=${data},data_file_raw=on`;
    await execa(join(qemuBin(qemu), 'qemu-img'), [
      'create',
      '-q',
      '-f',
      'qcow2',
      '-o',
      options,
      image,
      `${32 * MiB}`,
    ]);
    const { vm, site, first } = await begin(t, qemu, [{ name: 'vda', sizeBytes: 32 * MiB }], dir);
    await vm.restart();
    await vm.write('vda', 3, 20 * MiB, MiB);
    const second = await backUpWithTruth(site, vm);
    t.equal(second.how, 'tracked');
    for (const point of [first, second]) await expectTruth(t, site, vm, point);
    await expectClean(t, site, vm, { bitmaps: 1 });
  });

  t.test(`QEMU ${qemu}: a VM that has another name of its own goes on in its chain`, async (t) => {
    const disks: DiskSpec[] = [{ name: 'vda', sizeBytes: 32 * MiB }];
    const { vm, site, first } = await begin(t, qemu, disks);
    await vm.quit();
    const renamed = await testVm(t, { qemu, dir: vm.dir, uuid: UUID, name: 'after', disks });
    const second = await backUpWithTruth(site, renamed);
    t.match(second, { how: 'tracked', parent: first.id });
    await expectTruth(t, site, renamed, second);
  });
}
