import { chmodSync, existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { execa } from 'execa';
import t from 'tap';
import { GuestAgent } from '../../qmp/index.ts';
import { until } from '../../src/base/deadline.ts';
import { MiB } from '../../src/base/units.ts';
import { BACKING_PATTERN, createDisk, type DiskSpec, startVm } from '../../vm-fixtures/guestless.ts';
import { GuestWriter } from '../helpers/guest-writer.ts';
import { difference, sha256 } from '../helpers/images.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { smallTmpfs } from '../helpers/small-tmpfs.ts';
import { processesIn, tempDir } from '../helpers/temp-dir.ts';
import { testGuest, testVm } from '../helpers/vm.ts';

const sizeBytes = 16 * MiB;

const DISKS: readonly DiskSpec[] = [
  { name: 'vda', sizeBytes, withBacking: true },
  { name: 'vdb', sizeBytes, iothread: true },
  { name: 'vdc', sizeBytes, format: 'raw' },
  { name: 'sda', sizeBytes, attach: 'virtio-scsi', throttle: 0 },
  { name: 'sdb', sizeBytes, attach: 'virtio-scsi', iothread: true, format: 'raw' },
  { name: 'hda', sizeBytes, attach: 'ahci' },
  { name: 'nvme', sizeBytes, attach: 'nvme' },
  { name: 'nameless', sizeBytes, attach: 'nameless' },
];

for (const qemu of qemuVersions(['5.2', '7.2', '11.1'])) {
  t.test(
    `on QEMU ${qemu} a disk of every kind is written through its device, and its truth is read back`,
    async (t) => {
      const vm = await testVm(t, { qemu, disks: DISKS });
      for (const { name } of vm.disks) {
        await vm.write(name, 7, 0, MiB);
        await vm.zero(name, 0, 65536);
        await vm.discard(name, 65536, 65536);
        await vm.write(name, 9, 15 * MiB, 4096);
        await vm.verify(name, 0, 0, 131072);

        const truth = join(vm.dir, 'truth');
        await vm.truth(name, truth);
        const expected = Buffer.alloc(sizeBytes);
        if (name === 'vda') expected.fill(BACKING_PATTERN, 0, 8 * MiB);
        expected
          .fill(7, 131072, MiB)
          .fill(0, 0, 131072)
          .fill(9, 15 * MiB, 15 * MiB + 4096);
        writeFileSync(`${truth}.expected`, expected);
        t.equal(await sha256(truth), await sha256(`${truth}.expected`), `${name} holds what was written`);
      }
      t.same(await vm.leftovers(), { nodes: [], jobs: [], exports: [], bitmaps: [] });
    },
  );

  t.test(`on QEMU ${qemu} what the guest would see as an error is one`, async (t) => {
    const disks: DiskSpec[] = [
      { name: 'readonly', sizeBytes, readOnly: true },
      { name: 'cdrom', sizeBytes, attach: 'cdrom', format: 'raw' },
    ];
    const vm = await testVm(t, { qemu, disks });
    for (const { name } of vm.disks) await t.rejects(vm.write(name, 1, 0, 4096), { code: 'guest-io' });
    await t.rejects(vm.write('cdrom', 1, sizeBytes, 4096), { code: 'guest-io' });
    await t.rejects(vm.verify('cdrom', 1, 0, 4096), { code: 'guest-io' });
    await t.rejects(vm.qemuIo('cdrom', 'bogus'), { code: 'guest-io' });
  });
}

t.test('the truth is read below a filter, and from a snapshot taken meanwhile', async (t) => {
  const vm = await testVm(t, { qemu: '7.2', disks: [{ name: 'vda', sizeBytes }] });
  await vm.write('vda', 1, 0, 65536);
  const scratch = await createDisk(vm.bin, vm.dir, { name: 'scratch', sizeBytes });
  await vm.qmp.execute('blockdev-snapshot-sync', {
    'node-name': 'vda',
    'snapshot-file': join(vm.dir, 'overlay.qcow2'),
    'snapshot-node-name': 'overlay',
  });
  await vm.qmp.execute('blockdev-add', {
    driver: 'qcow2',
    'node-name': 'qv-s',
    file: { driver: 'file', filename: scratch.image },
  });
  await vm.qmp.execute('blockdev-add', {
    driver: 'copy-before-write',
    'node-name': 'qv-c',
    file: 'overlay',
    target: 'qv-s',
  });
  await vm.qmp.execute('qom-set', { path: vm.disk('vda').qdev, property: 'drive', value: 'qv-c' });
  await vm.write('vda', 2, 65536, 65536);
  await vm.truth('vda', join(vm.dir, 'truth'));
  t.equal(await difference(join(vm.dir, 'overlay.qcow2'), join(vm.dir, 'truth')), null);
  t.match(await difference(join(vm.dir, 'vda.qcow2'), join(vm.dir, 'truth')), /65536/);
  t.same((await vm.leftovers()).nodes.toSorted(), ['qv-c', 'qv-s']);
});

t.test('a VM that is killed and started again has kept what was flushed', async (t) => {
  const vm = await testVm(t, { qemu: '7.2', disks: [{ name: 'vda', sizeBytes }] });
  await vm.write('vda', 5, 0, 65536);
  await vm.flush('vda');
  await vm.kill();
  t.equal(vm.isAlive, false);
  await vm.restart();
  await vm.verify('vda', 5, 0, 65536);
});

t.test('a disk is plugged in, written and unplugged', async (t) => {
  const vm = await testVm(t, { qemu: '7.2', disks: [] });
  await vm.plug({ name: 'extra', sizeBytes });
  await vm.write('extra', 5, 0, 65536);
  await vm.unplug('extra');
  t.same(await vm.qmp.execute('query-block'), []);
});

t.test('a VM can belong to another user', async (t) => {
  const dir = tempDir(t);
  chmodSync(dir, 0o755);
  const vm = await testVm(t, { qemu: '7.2', dir, disks: [{ name: 'vda', sizeBytes }], uid: 65534 });
  await vm.write('vda', 5, 0, 65536);
  t.equal(statSync(`/proc/${vm.pid}`).uid, 65534);
});

t.test('a VM that cannot start says why', async (t) => {
  const wrong = startVm({ qemu: '7.2', dir: tempDir(t), disks: [], extraArgs: ['-nonsense'] });
  await t.rejects(wrong, { code: 'vm-start', message: /-nonsense/ });
});

t.test('a guest that writes without end: latencies, errors, and which writes an image holds', async (t) => {
  const vm = await testVm(t, { qemu: '7.2', disks: [{ name: 'vda', sizeBytes }] });
  const writer = await GuestWriter.start(vm, 'vda');
  await writer.progress(100);
  const { count, worstMs, errors } = await writer.stop();
  t.same(errors, []);
  t.ok(count >= 164 && worstMs > 0);
  const truth = join(vm.dir, 'truth');
  await vm.truth('vda', truth);
  t.equal(await writer.writesIn(truth), count);

  const torn = readFileSync(truth);
  torn.fill(0xff, 0, 4096);
  writeFileSync(truth, torn);
  t.equal(await writer.writesIn(truth), null);
});

t.test('a temporary folder ends with the processes that use it', async (t) => {
  let dir = '';
  let pid = 0;
  await t.test('a test that forgets its VM', async (t) => {
    dir = tempDir(t);
    pid = (await startVm({ qemu: '7.2', dir, disks: [] })).pid;
    t.match(processesIn(dir), [{ pid }]);
  });
  await until(async () => processesIn(dir).length === 0 || undefined, { what: `process ${pid} to end` });
  t.equal(existsSync(dir), false);
});

t.test('a small filesystem fills up', async (t) => {
  const dir = smallTmpfs(t, MiB);
  t.throws(() => writeFileSync(join(dir, 'file'), Buffer.alloc(2 * MiB)), { code: 'ENOSPC' });
});

t.test('a real guest boots, takes commands and keeps its files over a restart', async (t) => {
  const disks: DiskSpec[] = [
    { name: 'data', sizeBytes: 64 * MiB },
    { name: 'more', sizeBytes: 64 * MiB, attach: 'virtio-scsi', iothread: true },
    { name: 'fast', sizeBytes: 64 * MiB, attach: 'nvme' },
  ];
  const guest = await testGuest(t, { qemu: '7.2', disks });
  t.same(await guest.run('echo one; echo two >&2; exit 3'), { output: 'one\ntwo\n', status: 3 });
  for (const { name } of disks) await guest.sh(`echo ${name} >/mnt/${name}/file`);

  const agent = await GuestAgent.connect({ path: guest.agentSocket });
  t.teardown(() => agent.close());
  t.equal(await agent.freeze({ timeoutMs: 10_000 }), 3);
  t.equal(await agent.thaw({ timeoutMs: 10_000 }), 3);

  await guest.restart();
  t.equal(await guest.sh('cat /mnt/data/file /mnt/more/file /mnt/fast/file'), 'data\nmore\nfast\n');
});

t.test('a guest does not hide that a filesystem is gone', async (t) => {
  const guest = await testGuest(t, { qemu: '7.2', disks: [{ name: 'data', sizeBytes: 64 * MiB }] });
  await guest.shutdown();
  await execa('qemu-io', ['-f', 'qcow2', '-c', 'write -P 1 0 1M', guest.vm.disk('data').image]);
  await t.rejects(guest.restart(), { code: 'guest-io' });
});
