import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import t from 'tap';
import type { VmName } from '../../../src/base/ids.ts';
import { listInThreads } from '../../../src/operations/list-threads.ts';
import { listHere } from '../../../src/operations/list-vms.ts';
import type { Vault } from '../../../src/vault/vault.ts';
import { manifestOf, tempVault } from '../../helpers/vault-files.ts';

async function largeVault({ path }: Vault): Promise<VmName[]> {
  const names = Array.from({ length: 13 }, (_, i) => `vm${i}` as VmName);
  for (const [i, name] of names.entries()) {
    for (let nth = 0; nth < i % 4; nth += 1) {
      const manifest = manifestOf(`p${nth}`, { vm: { name, uuid: '' } });
      await mkdir(join(path, name, manifest.id), { recursive: true });
      await writeFile(join(path, name, manifest.id, 'manifest.json'), `${JSON.stringify(manifest)}\n`);
    }
    await mkdir(join(path, name, 'readers'), { recursive: true });
  }
  await writeFile(join(path, 'vm7', 'p1', 'manifest.json'), '{"format":1}\n');
  return names;
}

t.test('threads list what one would, in the same order, and what cannot be read too', async (t) => {
  const { vault } = await tempVault(t);
  const names = await largeVault(vault);
  const expected = await listHere(vault, names);
  t.match(expected[7], {
    points: [{ id: 'p0' }, { id: 'p2' }],
    warnings: [/^vm7: the point p1 cannot be read/],
  });
  t.same(await listInThreads(vault, names), expected);
});

t.test(
  'a vault that goes away meanwhile is an error with its code, not a vault without points',
  async (t) => {
    const { vault } = await tempVault(t);
    const names = await largeVault(vault);
    for (const name of names) await rm(join(vault.path, name), { recursive: true });
    await rm(join(vault.path, 'vault.json'));
    await t.rejects(listInThreads(vault, names), { code: 'vault-away', details: { path: vault.path } });
  },
);
