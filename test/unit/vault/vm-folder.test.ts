import { mkdirSync, readdirSync, renameSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import type { DiskName, VmName } from '../../../src/base/ids.ts';
import type { VmRecord } from '../../../src/vault/vm-record.ts';
import {
  changeOf,
  leaseOf,
  listingOf,
  manifestOf,
  point,
  publishPoint,
  tempVault,
} from '../../helpers/vault-files.ts';

const RECORD: VmRecord = {
  format: 1,
  name: 'web1' as VmName,
  uuid: '7d5b6a0e-9d5c-4d84-8b6c-2f6a9a0a7e11',
  disks: [
    {
      name: 'vda' as DiskName,
      image: '/images/vda.qcow2',
      format: 'qcow2',
      device: '/machine/x',
      virtualSizeBytes: 1,
    },
  ],
  updatedAt: '2026-11-20T08:41:12.123Z',
};

t.test('points come oldest first, whatever their names', async (t) => {
  const { vm } = await tempVault(t);
  const lease = await leaseOf(t, vm);
  await publishPoint(vm, lease, 'z-first', { createdAt: '2026-11-18T00:00:00Z' });
  await publishPoint(vm, lease, 'a-last', { createdAt: '2026-11-20T00:00:00Z' });
  await publishPoint(vm, lease, 'm-middle', { createdAt: '2026-11-19T00:00:00Z', parent: point('z-first') });
  t.same(
    (await vm.points()).points.map(({ id }) => id),
    ['z-first', 'm-middle', 'a-last'],
  );
});

t.test('one damaged manifest hides no other point, and its own point is not gone', async (t) => {
  const { vm } = await tempVault(t);
  const lease = await leaseOf(t, vm);
  for (const id of ['good', 'torn', 'huge', 'newer', 'moved', 'gone', 'dir'])
    await publishPoint(vm, lease, id);
  const manifest = (id: string) => join(vm.path, id, 'manifest.json');
  truncateSync(manifest('torn'), 100);
  truncateSync(manifest('huge'), 8 * 1024 * 1024);
  writeFileSync(manifest('newer'), JSON.stringify({ ...manifestOf('newer'), format: 2 }));
  renameSync(join(vm.path, 'moved'), join(vm.path, 'elsewhere'));
  renameSync(manifest('gone'), join(vm.path, 'gone', 'other.json'));
  renameSync(manifest('dir'), join(vm.path, 'dir', 'other.json'));
  mkdirSync(manifest('dir'));
  symlinkSync('good', join(vm.path, 'link'));
  const { points, broken } = await vm.points();
  t.same(
    points.map(({ id }) => id),
    ['good'],
  );
  t.same(
    broken.map(({ id, error }) => [id, error.code]),
    [
      ['dir', 'vault-unreadable'],
      ['elsewhere', 'manifest-invalid'],
      ['gone', 'manifest-invalid'],
      ['huge', 'manifest-invalid'],
      ['link', 'link-refused'],
      ['newer', 'vault-format'],
      ['torn', 'manifest-invalid'],
    ],
  );
});

t.test('what is not a point is not listed: readers, staging, what a NAS adds by itself', async (t) => {
  const { vm } = await tempVault(t);
  await leaseOf(t, vm);
  for (const name of ['readers', '.staging-x', '.removed-x', '@eaDir', 'lost+found', '.snapshot']) {
    mkdirSync(join(vm.path, name), { recursive: true });
  }
  writeFileSync(join(vm.path, 'notes.txt'), '');
  t.same(await vm.points(), listingOf([]));
});

t.test('a VM that was never backed up has no points; asking leaves nothing in the vault', async (t) => {
  const { vault, vm } = await tempVault(t);
  t.equal(await vm.exists(), false);
  t.same(await vm.points(), listingOf([]));
  t.equal(await vm.readRecord(), null);
  t.same(readdirSync(vault.path), ['vault.json']);
});

t.test('a vault that went away is never a VM without points', async (t) => {
  const { vault, vm } = await tempVault(t);
  const lease = await leaseOf(t, vm);
  await publishPoint(vm, lease, 'p1');
  await lease.release();
  renameSync(vault.path, `${vault.path}-unmounted`);
  const asks: Record<string, () => Promise<unknown>> = {
    points: () => vm.points(),
    exists: () => vm.exists(),
    lease: () => vm.acquireLease({ what: 'a test' }),
    reader: () => vm.registerReader(),
    names: () => vault.vmNames(),
  };
  for (const mountPoint of ['missing', 'empty', 'with an empty VM folder']) {
    if (mountPoint === 'empty') mkdirSync(vault.path);
    if (mountPoint.startsWith('with')) mkdirSync(vm.path);
    for (const [what, ask] of Object.entries(asks)) {
      await t.rejects(ask(), { code: 'vault-away' }, `${what}, mount point ${mountPoint}`);
    }
  }
  t.same(readdirSync(vm.path), [], 'nothing was written where the NAS should be');
});

t.test('another vault mounted at the path is not ours', async (t) => {
  const { vault, vm } = await tempVault(t);
  const other = { format: 1, id: 'f'.repeat(32), createdAt: '2026-11-20T08:41:12.123Z' };
  writeFileSync(join(vault.path, 'vault.json'), JSON.stringify(other));
  await t.rejects(vm.acquireLease({ what: 'a test' }), { code: 'vault-away' });
});

t.test('the record of a VM is read as it was written', async (t) => {
  const { vm } = await tempVault(t);
  const lease = await leaseOf(t, vm);
  await vm.writeRecord(RECORD, lease);
  t.same(await vm.readRecord(), RECORD);
  writeFileSync(join(vm.path, 'vm.json'), '{"format": 1}');
  await t.rejects(vm.readRecord(), { code: 'manifest-invalid' });
});

t.test('a manifest is replaced under the lease, and members of a later version are kept', async (t) => {
  const { vm } = await tempVault(t);
  const lease = await leaseOf(t, vm);
  await publishPoint(vm, lease, 'p1', { note: 'of a later version' } as object);
  const [manifest] = (await vm.points()).points;
  await vm.replaceManifest({ ...manifest!, sealed: true }, lease);
  t.match((await vm.points()).points, [{ id: 'p1', sealed: true, note: 'of a later version' }]);
  await t.rejects(vm.replaceManifest(manifestOf('p2'), lease), { code: 'point-unknown' });
  await lease.release();
  await t.rejects(vm.replaceManifest(manifestOf('p1'), lease), { code: 'lease-lost' });
});

t.test('the lease of another VM opens no door', async (t) => {
  const { vault, vm } = await tempVault(t);
  const lease = await leaseOf(t, vault.vm('db1'));
  await t.rejects(vm.createStaging(point('p1'), lease), { code: 'internal' });
  await t.rejects(vm.writeRecord(RECORD, lease), { code: 'internal' });
});

t.test('a journal is there from before the first step until it is closed', async (t) => {
  const { vm } = await tempVault(t);
  const lease = await leaseOf(t, vm);
  t.equal(await vm.readChange(), null);
  await vm.writeChange(changeOf(), lease);
  await vm.writeChange(changeOf({ stage: 'switching' }), lease);
  t.same(await vm.readChange(), changeOf({ stage: 'switching' }));
  await vm.closeChange(lease);
  await vm.closeChange(lease);
  t.equal(await vm.readChange(), null);
});

t.test('a removed point is gone, and its id is never used again', async (t) => {
  const { vm } = await tempVault(t);
  const lease = await leaseOf(t, vm);
  await publishPoint(vm, lease, 'p1');
  await publishPoint(vm, lease, 'p2');
  await vm.removePoint(point('p1'), lease);
  await t.rejects(vm.createStaging(point('p1'), lease), { code: 'point-exists' });
  await t.rejects(vm.removePoint(point('p1'), lease), { code: 'point-unknown' });
  t.match((await vm.points()).points, [{ id: 'p2' }]);
  t.same(readdirSync(vm.path).toSorted(), ['.retired.json', 'lease.json', 'p2']);
});

t.test(
  'whoever takes the lease next finishes a removal and sweeps up, but leaves staging to its caller',
  async (t) => {
    const { vm } = await tempVault(t);
    const lease = await vm.acquireLease({ what: 'a test' });
    await publishPoint(vm, lease, 'p1');
    renameSync(join(vm.path, 'p1'), join(vm.path, '.removed-p1'));
    await vm.createStaging(point('p2'), lease);
    mkdirSync(join(vm.path, 'readers'));
    for (const folder of ['.', 'readers']) writeFileSync(join(vm.path, folder, '.tmp-0123'), '');
    await lease.release();
    await leaseOf(t, vm);
    t.same(readdirSync(vm.path).toSorted(), ['.staging-p2', 'lease.json', 'readers']);
    t.same(readdirSync(join(vm.path, 'readers')), []);
  },
);

t.test('a disk of a point is found, and never behind a symbolic link', async (t) => {
  const { vm } = await tempVault(t);
  const lease = await leaseOf(t, vm);
  await publishPoint(vm, lease, 'p1');
  t.equal(await vm.diskPath(point('p1'), 'vda.qcow2'), join(vm.path, 'p1', 'vda.qcow2'));
  await t.rejects(vm.diskPath(point('p1'), 'vdb.qcow2'), { code: 'image-invalid' });
  await t.rejects(vm.diskPath(point('p2'), 'vda.qcow2'), { code: 'image-invalid' });
  await t.rejects(vm.diskPath(point('..'), 'vda.qcow2'), { code: 'name-invalid' });
  symlinkSync('/etc/shadow', join(vm.path, 'p1', 'vdb.qcow2'));
  await t.rejects(vm.diskPath(point('p1'), 'vdb.qcow2'), { code: 'link-refused' });
  symlinkSync('p1', join(vm.path, 'p2'));
  await t.rejects(vm.diskPath(point('p2'), 'vda.qcow2'), { code: 'link-refused' });
});
