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

export async function measureCatalogue(
  { dir }: Laboratory,
  { fulls: rounds, listedVms }: Extent,
): Promise<Figure[]> {
  const vault = join(dir, 'vault');
  makeVault(vault, listedVms);
  const what = `list of ${listedVms} VMs of ${POINTS} points, whole command`;
  const [cold, warm]: [number[], number[]] = [[], []];
  for (let round = 0; round < rounds; round += 1) {
    await settle(dir);
    const isCold = await dropCaches();
    const ms = await list(vault, dir);
    if (isCold) cold.push(ms);
    warm.push(await list(vault, dir));
  }
  return [
    ...(cold.length > 0 ? [samples(`${what}, nothing cached`, 'ms', cold, TARGETS.listMs)] : []),
    samples(what, 'ms', warm, TARGETS.listMs),
  ];
}

async function list(vault: string, dir: string): Promise<number> {
  const began = performance.now();
  await execa(process.execPath, [...PACKAGED, 'list', '--vault', vault, '--json'], {
    env: { ...packagedEnv({ dir }), QMPVAULT_STATE_DIR: join(dir, 'state') },
    stdout: 'ignore',
  });
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
