import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readdirSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { registerReader } from '../../../src/vault/readers.ts';
import { readOnlyView } from '../../helpers/read-only-view.ts';
import { smallTmpfs } from '../../helpers/small-tmpfs.ts';
import { changeOf, leaseOf, tempVault } from '../../helpers/vault-files.ts';

const HOLDER = join(import.meta.dirname, '../../helpers/lease-holder.ts');

t.test('a changer is refused while somebody reads, and told who', async (t) => {
  const { vm } = await tempVault(t);
  const lease = await leaseOf(t, vm);
  const reader = await vm.registerReader({ what: 'restore of p1' });
  t.ok(reader.isRegistered);
  await t.rejects(vm.waitForReaders(lease), {
    code: 'vault-locked',
    details: { readers: [/^restore of p1 \(process \d+ on /] },
  });
  await reader.assertRegistered();
  await reader.close();
  await reader.close();
  await vm.waitForReaders(lease);
});

t.test('a changer that waits goes on when the last reader is done', async (t) => {
  const { vm } = await tempVault(t);
  const lease = await leaseOf(t, vm);
  const reader = await vm.registerReader();
  const waiting = vm.waitForReaders(lease, { waitMs: 10_000 });
  await reader.close();
  await waiting;
});

t.test('a reader whose process is dead does not count', async (t) => {
  const { vm } = await tempVault(t);
  const lease = await leaseOf(t, vm);
  const child = spawn(process.execPath, [HOLDER, vm.path, 'reader'], { stdio: ['pipe', 'pipe', 'inherit'] });
  t.teardown(() => child.kill('SIGKILL'));
  t.match(String(await once(child.stdout, 'data')), 'ok');
  await t.rejects(vm.waitForReaders(lease), { code: 'vault-locked' });
  child.kill('SIGKILL');
  await once(child, 'exit');
  await vm.waitForReaders(lease);
  t.same(readdirSync(join(vm.path, 'readers')), []);
});

t.test('a reader that gave no sign of life for a term is passed over, and notices', async (t) => {
  const { vm } = await tempVault(t);
  const lease = await leaseOf(t, vm);
  const reader = await vm.registerReader();
  const readers = join(vm.path, 'readers');
  const entry = join(readers, readdirSync(readers)[0]!);
  const longAgo = new Date(statSync(entry).mtimeMs - 61_000);
  utimesSync(entry, longAgo, longAgo);
  await vm.waitForReaders(lease);
  await t.rejects(reader.assertRegistered(), { code: 'lease-lost' });
  await reader.close();
});

t.test('a reader is refused while published files are changed, and comes in after', async (t) => {
  const { vm } = await tempVault(t);
  const lease = await leaseOf(t, vm);
  await vm.writeChange(changeOf(), lease);
  await t.rejects(vm.registerReader(), { code: 'vault-locked' });
  // It did not stay registered: changer and reader would wait for each other.
  await vm.waitForReaders(lease);
  const waiting = vm.registerReader({ waitMs: 10_000 });
  await vm.closeChange(lease);
  await using reader = await waiting;
  t.ok(reader.isRegistered);
});

t.test('a backup, which opens no journal, keeps no reader out', async (t) => {
  const { vm } = await tempVault(t);
  await leaseOf(t, vm);
  await using reader = await vm.registerReader();
  t.ok(reader.isRegistered);
});

t.test('a journal that a dead changer left keeps no reader out', async (t) => {
  const { vm } = await tempVault(t);
  const lease = await leaseOf(t, vm);
  await vm.writeChange(changeOf(), lease);
  await lease.release();
  await using reader = await vm.registerReader();
  t.ok(reader.isRegistered);
});

t.test('a full NAS does not stand in the way of a restore', async (t) => {
  const folder = join(smallTmpfs(t, 64 * 1024), 'web1');
  mkdirSync(folder);
  t.throws(() => writeFileSync(join(folder, 'disk.qcow2'), Buffer.alloc(128 * 1024)), { code: 'ENOSPC' });
  await using reader = await registerReader(folder, { what: 'a restore' });
  t.equal(reader.isRegistered, false);
  await reader.assertRegistered();
});

t.test('a vault that may only be read can be read', async (t) => {
  const { vm } = await tempVault(t);
  await (await leaseOf(t, vm)).release();
  await using reader = await registerReader(readOnlyView(t, vm.path), { what: 'a restore' });
  t.equal(reader.isRegistered, false);
  await reader.assertRegistered();
});

t.test('reading a VM that the vault does not know makes no folder for it', async (t) => {
  const { vault, vm } = await tempVault(t);
  await t.rejects(vm.registerReader(), { code: 'vm-unknown' });
  t.same(readdirSync(vault.path), ['vault.json']);
});
