import { mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { rename } from 'node:fs/promises';
import { join } from 'node:path';
import t from 'tap';
import { removeClaim, seeClaim } from '../../../src/vault/claim.ts';
import {
  leaseOf,
  manifestOf,
  point,
  publishPoint,
  stagedPoint,
  tempVault,
} from '../../helpers/vault-files.ts';

t.test('a point exists once its staging folder is published, and not before', async (t) => {
  const { vm } = await tempVault(t);
  const lease = await leaseOf(t, vm);
  const staging = await stagedPoint(vm, 'p1', lease);
  t.same((await vm.points()).points, []);
  const manifest = manifestOf('p1');
  await staging.publish(manifest, lease);
  t.ok(staging.isPublished);
  t.same((await vm.points()).points, [manifest]);
  t.same(readdirSync(join(vm.path, 'p1')).toSorted(), ['manifest.json', 'vda.qcow2']);
});

t.test('killed before the rename, even with the manifest written, there is no point', async (t) => {
  const { vm } = await tempVault(t);
  const lease = await leaseOf(t, vm);
  const staging = await vm.createStaging(point('p1'), lease, '5f3a0c11');
  writeFileSync(join(staging.path, 'manifest.json'), JSON.stringify(manifestOf('p1')));
  t.match(await vm.points(), { points: { length: 0 }, broken: { length: 0 } });
  const [leftover, ...more] = await vm.leftoverStaging(lease);
  t.match(leftover, { id: 'p1', path: staging.path, runId: '5f3a0c11' });
  t.same(more, []);
  await leftover!.remove();
  t.same(await vm.leftoverStaging(lease), []);
});

t.test('a leftover without a readable run is listed all the same', async (t) => {
  const { vm } = await tempVault(t);
  const lease = await leaseOf(t, vm);
  await vm.createStaging(point('p1'), lease);
  const [leftover] = await vm.leftoverStaging(lease);
  t.equal(leftover?.runId, undefined);
  t.equal(leftover?.id, 'p1');
});

t.test('an existing point is refused when staging begins', async (t) => {
  const { vm } = await tempVault(t);
  const lease = await leaseOf(t, vm);
  await publishPoint(vm, lease, 'p1');
  await t.rejects(vm.createStaging(point('p1'), lease), { code: 'point-exists' });
});

t.test('a final name that appeared meanwhile is refused and left alone', async (t) => {
  const { vm } = await tempVault(t);
  const lease = await leaseOf(t, vm);
  const staging = await stagedPoint(vm, 'p1', lease);
  // POSIX would rename over an empty folder without a word.
  mkdirSync(join(vm.path, 'p1'));
  await t.rejects(staging.publish(manifestOf('p1'), lease), { code: 'point-exists' });
  t.notOk(staging.isPublished);
  t.same(readdirSync(join(vm.path, 'p1')), []);
});

t.test('a staging folder of the same id is refused, not taken over', async (t) => {
  const { vm } = await tempVault(t);
  const lease = await leaseOf(t, vm);
  await vm.createStaging(point('p1'), lease);
  await t.rejects(vm.createStaging(point('p1'), lease), { code: 'point-exists' });
});

t.test('a failed fsync is final: the staging can only be discarded', async (t) => {
  const { vm } = await tempVault(t);
  const lease = await leaseOf(t, vm);
  const staging = await vm.createStaging(point('p1'), lease);
  symlinkSync('/proc/self/comm', staging.diskPath('vda.qcow2')); // its fsync fails with EINVAL
  await staging.hold('vda.qcow2');
  await t.rejects(staging.sync(), { code: 'sync-failed', details: { path: staging.diskPath('vda.qcow2') } });
  await t.rejects(staging.publish(manifestOf('p1'), lease), { code: 'internal' });
  await staging.discard();
  t.same((await vm.points()).points, []);
  t.same(await vm.leftoverStaging(lease), []);
});

t.test('publishing syncs by itself', async (t) => {
  const { vm } = await tempVault(t);
  const lease = await leaseOf(t, vm);
  const staging = await vm.createStaging(point('p1'), lease);
  symlinkSync('/proc/self/comm', staging.diskPath('vda.qcow2'));
  await staging.hold('vda.qcow2');
  await t.rejects(staging.publish(manifestOf('p1'), lease), { code: 'sync-failed' });
  t.match(await vm.points(), { points: { length: 0 }, broken: { length: 0 } });
});

t.test('who lost the lease publishes nothing', async (t) => {
  const { vm } = await tempVault(t);
  const lease = await leaseOf(t, vm);
  const staging = await stagedPoint(vm, 'p1', lease);
  await removeClaim((await seeClaim(join(vm.path, 'lease.json')))!);
  await t.rejects(staging.publish(manifestOf('p1'), lease), { code: 'lease-lost' });
  t.notOk(staging.isPublished);
  t.same((await vm.points()).points, []);
});

t.test('a publish whose rename was replayed by NFS has succeeded', async (t) => {
  const { vm } = await tempVault(t);
  const lease = await leaseOf(t, vm);
  const staging = await stagedPoint(vm, 'p1', lease);
  const manifest = manifestOf('p1');
  // The first request is done in the last moment before ours; the server then answers ENOENT.
  const assertHeld = lease.assertHeld.bind(lease);
  lease.assertHeld = async () => {
    await assertHeld();
    await rename(staging.path, join(vm.path, 'p1'));
  };
  await staging.publish(manifest, lease);
  t.same((await vm.points()).points, [manifest]);
});

t.test('a staging folder that was taken away is an error, not a published point', async (t) => {
  const { vm } = await tempVault(t);
  const lease = await leaseOf(t, vm);
  const staging = await stagedPoint(vm, 'p1', lease);
  rmSync(staging.path, { recursive: true });
  await t.rejects(staging.publish(manifestOf('p1'), lease), { code: 'vault-unreadable' });
});

t.test('a manifest that could not be read back is refused before anything is renamed', async (t) => {
  const { vm } = await tempVault(t);
  const lease = await leaseOf(t, vm);
  const staging = await stagedPoint(vm, 'p1', lease);
  await t.rejects(staging.publish(manifestOf('p1', { createdAt: 'yesterday' }), lease), {
    code: 'manifest-invalid',
  });
  await t.rejects(staging.publish(manifestOf('p2'), lease), { code: 'internal' }, 'of another point');
  await staging.publish(manifestOf('p1'), lease);
});

t.test('a file that was never held is not published', async (t) => {
  const { vm } = await tempVault(t);
  const lease = await leaseOf(t, vm);
  const staging = await vm.createStaging(point('p1'), lease);
  writeFileSync(staging.diskPath('vda.qcow2'), '');
  await t.rejects(staging.publish(manifestOf('p1'), lease), { code: 'internal' });
});

t.test('discarding is idempotent and never touches a published point', async (t) => {
  const { vm } = await tempVault(t);
  const lease = await leaseOf(t, vm);
  const staging = await stagedPoint(vm, 'p1', lease);
  await staging.publish(manifestOf('p1'), lease);
  await staging.discard();
  t.equal(readFileSync(join(vm.path, 'p1', 'vda.qcow2'), 'utf8'), 'not really a qcow2');
  const other = await stagedPoint(vm, 'p2', lease);
  await other.discard();
  await other.discard();
  await t.rejects(other.hold('vda.qcow2'), { code: 'internal' });
  t.same(readdirSync(vm.path).toSorted(), ['lease.json', 'p1']);
});

t.test('names that would leave the folder are refused', async (t) => {
  const { vm } = await tempVault(t);
  const lease = await leaseOf(t, vm);
  for (const id of ['..', '../x', '.staging-p', '', 'lease.json']) {
    await t.rejects(vm.createStaging(point(id), lease), { code: 'name-invalid' }, id);
  }
  const staging = await vm.createStaging(point('p1'), lease);
  for (const file of ['../vda.qcow2', 'manifest.json', '.run.json', '']) {
    t.throws(() => staging.diskPath(file), { code: 'name-invalid' }, file);
  }
});
