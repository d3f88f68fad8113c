/** Listing a large vault, as a process of its own. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import type { DiskName, PointId, VmName } from '../../src/base/ids.ts';
import { diskOf, manifestOf, point } from '../../test/helpers/vault-files.ts';
import { settle } from './baselines.ts';
import { type Figure, samples, TARGETS } from './figures.ts';
import type { Laboratory } from './laboratory.ts';
import { PACKAGED, packagedEnv } from './packaged.ts';
import type { Extent } from './plan.ts';

const POINTS = 30;

/** Points are remembered once they have been as they are for an hour: this long have the clocks of Node gone ahead. */
const LATER = `data:text/javascript,${encodeURIComponent(
  'const N = Date; globalThis.Date = class extends N { constructor(...at) { super(...(at.length ? at : [N.now() + 7.2e6])); } };',
)}`;

export async function measureCatalogue(
  { dir }: Laboratory,
  { fulls: rounds, listedVms }: Extent,
): Promise<Figure[]> {
  const vault = join(dir, 'vault');
  makeVault(vault, listedVms);
  const what = `list of ${listedVms} VMs of ${POINTS} points, whole command`;
  // Each before the one that finds cached what it read.
  const ways = [
    { title: `${what}, nothing cached`, args: [], isCold: true },
    { title: what, args: [], isCold: false },
    { title: `${what}, nothing remembered, nothing cached`, args: ['--no-cache'], isCold: true },
    { title: `${what}, nothing remembered`, args: ['--no-cache'], isCold: false },
  ].map((way) => ({ ...way, ms: [] as number[] }));
  await list(vault, dir);
  for (let round = 0; round < rounds; round += 1) {
    await settle(dir);
    for (const { args, isCold, ms } of ways) {
      if (!isCold || (await dropCaches())) ms.push(await list(vault, dir, args));
    }
  }
  return ways
    .filter(({ ms }) => ms.length > 0)
    .map(({ title, ms }) => samples(title, 'ms', ms, TARGETS.listMs));
}

async function list(vault: string, dir: string, args: readonly string[] = []): Promise<number> {
  const began = performance.now();
  await execa(
    process.execPath,
    ['--import', LATER, ...PACKAGED, 'list', '--vault', vault, '--json', ...args],
    {
      env: { ...packagedEnv({ dir }), QMPVAULT_STATE_DIR: join(dir, 'state') },
      stdout: 'ignore',
    },
  );
  return performance.now() - began;
}

/** Also of the rest of the machine; only for root. */
async function dropCaches(): Promise<boolean> {
  return writeFile('/proc/sys/vm/drop_caches', '3').then(
    () => true,
    () => false,
  );
}

/** Plain files: by way of the engine each would be synced. */
function makeVault(path: string, vms: number): void {
  const id = '0123456789abcdef0123456789abcdef';
  mkdirSync(path);
  writeFileSync(
    join(path, 'vault.json'),
    JSON.stringify({ format: 1, id, createdAt: new Date(0).toISOString() }),
  );
  for (let vm = 0; vm < vms; vm += 1) {
    const name = `vm${vm}` as VmName;
    let parent: PointId | null = null;
    for (let nth = 0; nth < POINTS; nth += 1) {
      const createdAt = new Date(Date.UTC(2026, 0, 1 + nth, 2, 0, vm)).toISOString();
      const of = point(`${createdAt.replaceAll(/[-:]/g, '')}-${vm.toString(16).padStart(4, '0')}`);
      const kind = parent === null ? 'full' : 'incremental';
      const disks = ['vda', 'vdb'].map((disk) =>
        diskOf({ name: disk as DiskName, file: `${disk}.qcow2`, kind, sha256: 'a'.repeat(64) }),
      );
      const manifest = manifestOf(of, { vm: { name, uuid: '' }, createdAt, parent, disks });
      mkdirSync(join(path, name, of), { recursive: true });
      writeFileSync(join(path, name, of, 'manifest.json'), `${JSON.stringify(manifest, null, 2)}\n`);
      parent = of;
    }
  }
}
