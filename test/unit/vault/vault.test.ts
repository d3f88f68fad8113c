import { mkdirSync, readdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { VaultMemory } from '../../../src/vault/memory.ts';
import { initVault, openVault } from '../../../src/vault/vault.ts';
import { tempDir } from '../../helpers/temp-dir.ts';

/** A host with a NAS mounted at `nas`; unmounting leaves the empty folder below. */
function host(t: Parameters<typeof tempDir>[0]) {
  const dir = tempDir(t);
  const nas = join(dir, 'nas');
  return {
    dir,
    nas,
    memory: new VaultMemory(join(dir, 'state')),
    unmount() {
      renameSync(nas, join(dir, 'away'));
      mkdirSync(nas);
    },
    mount() {
      rmSync(nas, { recursive: true });
      renameSync(join(dir, 'away'), nas);
    },
  };
}

t.test('a vault that was made can be opened, here and by another host', async (t) => {
  const { dir, nas, memory } = host(t);
  const { id } = await initVault(nas, { memory });
  t.match(id, /^[0-9a-f]{32}$/);
  t.equal((await openVault(nas, { memory })).id, id);
  t.equal((await openVault(nas, { memory: new VaultMemory(join(dir, 'other')) })).id, id);
});

t.test('no vault, and none remembered, is a missing vault', async (t) => {
  const { nas, memory } = host(t);
  await t.rejects(openVault(nas, { memory }), { code: 'vault-missing' });
  mkdirSync(nas);
  await t.rejects(openVault(nas, { memory }), { code: 'vault-missing' });
});

t.test('an unmounted NAS is recognised, never opened, and never initialised', async (t) => {
  const { nas, memory, unmount, mount } = host(t);
  const { id } = await initVault(nas, { memory });
  unmount();
  await t.rejects(openVault(nas, { memory }), { code: 'vault-away', details: { known: id } });
  await t.rejects(initVault(nas, { memory }), { code: 'vault-known', details: { known: id } });
  t.same(readdirSync(nas), []);
  mount();
  t.equal((await openVault(nas, { memory })).id, id);
});

t.test('a vault that was only ever opened here is remembered too', async (t) => {
  const { dir, nas, memory, unmount } = host(t);
  await initVault(nas, { memory: new VaultMemory(join(dir, 'other')) });
  await openVault(nas, { memory });
  unmount();
  await t.rejects(openVault(nas, { memory }), { code: 'vault-away' });
});

t.test('the operator may say that a new vault is meant', async (t) => {
  const { nas, memory, unmount } = host(t);
  const { id } = await initVault(nas, { memory });
  unmount();
  const fresh = await initVault(nas, { memory, newVault: true });
  t.not(fresh.id, id);
  t.equal(await memory.recall(nas), fresh.id);
});

t.test('making a vault where one is opens it', async (t) => {
  const { nas, memory } = host(t);
  const { id } = await initVault(nas, { memory });
  t.equal((await initVault(nas, { memory })).id, id);
  t.equal((await initVault(nas, { memory, newVault: true })).id, id);
});

t.test('two engines that make a vault at once make one', async (t) => {
  const { dir, nas } = host(t);
  const vaults = await Promise.all(
    Array.from({ length: 8 }, (_, i) => initVault(nas, { memory: new VaultMemory(join(dir, `state${i}`)) })),
  );
  t.equal(new Set(vaults.map(({ id }) => id)).size, 1);
  t.same(readdirSync(nas), ['vault.json']);
});

t.test('another vault at a known path is opened, and the first one stays remembered', async (t) => {
  const { dir, nas, memory, unmount } = host(t);
  const { id } = await initVault(nas, { memory });
  unmount();
  const other = await initVault(nas, { memory: new VaultMemory(join(dir, 'other')) });
  t.equal((await openVault(nas, { memory })).id, other.id);
  t.equal(await memory.recall(nas), id);
});

t.test('a vault may move: it is known by its id, not by its path', async (t) => {
  const { dir, nas, memory } = host(t);
  const { id } = await initVault(nas, { memory });
  renameSync(nas, join(dir, 'mounted-elsewhere'));
  t.equal((await openVault(join(dir, 'mounted-elsewhere'), { memory })).id, id);
});

t.test('one vault by two paths is one in memory, also while its mount point dangles', async (t) => {
  const { dir, nas, memory } = host(t);
  const link = join(dir, 'link');
  symlinkSync('nas', link);
  const { id } = await initVault(nas, { memory });
  t.equal(await memory.recall(link), id);
  rmSync(nas, { recursive: true });
  t.equal(await memory.recall(link), id);
  await t.rejects(openVault(link, { memory }), { code: 'vault-away' });
});

t.test('points without their vault.json are not covered by a new vault', async (t) => {
  const { nas, memory } = host(t);
  mkdirSync(join(nas, 'web1'), { recursive: true });
  writeFileSync(join(nas, 'web1', 'vm.json'), '{}');
  await t.rejects(initVault(nas, { memory }), { code: 'vault-known', details: { orphan: 'web1' } });
});

t.test('a folder that holds other things may become a vault', async (t) => {
  const { nas, memory } = host(t);
  mkdirSync(join(nas, 'photos'), { recursive: true });
  writeFileSync(join(nas, 'notes.txt'), '');
  const vault = await initVault(nas, { memory });
  t.equal((await openVault(nas, { memory })).id, vault.id);
});

t.test(
  'a damaged vault.json, one of a newer version and a file instead of a folder are told apart',
  async (t) => {
    const { dir, nas, memory } = host(t);
    mkdirSync(nas);
    writeFileSync(join(nas, 'vault.json'), '');
    await t.rejects(openVault(nas, { memory }), { code: 'manifest-invalid' });
    await t.rejects(initVault(nas, { memory }), { code: 'manifest-invalid' }, 'and it is not overwritten');
    writeFileSync(join(nas, 'vault.json'), '{"format": 2}');
    await t.rejects(openVault(nas, { memory }), { code: 'vault-format', details: { format: 2, known: 1 } });
    writeFileSync(join(dir, 'file'), '');
    await t.rejects(initVault(join(dir, 'file'), { memory }), { code: 'vault-unreadable' });
  },
);

t.test('only folders that can be VMs are listed, sorted', async (t) => {
  const { nas, memory } = host(t);
  const vault = await initVault(nas, { memory });
  for (const name of ['web1', 'db1', '@eaDir', '.snapshot', 'lost+found', 'a:b']) mkdirSync(join(nas, name));
  writeFileSync(join(nas, 'file'), '');
  t.same(await vault.vmNames(), ['db1', 'web1']);
});

t.test('a VM’s name cannot leave the vault', async (t) => {
  const { nas, memory } = host(t);
  const vault = await initVault(nas, { memory });
  for (const name of ['..', '../x', 'a/b', '.hidden', '', 'vault.json', 'x'.repeat(201)]) {
    t.throws(() => vault.vm(name), { code: 'name-invalid' }, name);
  }
});
