/** How full a vault is, and with what. */
import { statfs } from 'node:fs/promises';
import { z } from 'zod';
import { newest } from '../vault/chain.ts';
import { type OperationContext, openVault, vaultParam } from './operation.ts';

export const params = z.strictObject({
  vault: vaultParam,
  points: z.boolean().default(true).describe('false: only how full it is, which costs next to nothing'),
});

/** @returns bytes of the filesystem, and of all points together @throws vault-away, … */
export async function run(
  { vault: path, points: isCounted }: z.output<typeof params>,
  context: OperationContext,
) {
  const vault = await openVault(path, context);
  const names = isCounted ? await vault.vmNames() : [];
  const vms = [];
  for (const name of names) {
    const { points, broken } = await vault.vm(name).points();
    const last = newest(points);
    const disks = points.flatMap(({ disks }) => disks);
    vms.push({
      name,
      points: points.length,
      broken: broken.length,
      newest: last && { id: last.id, createdAt: last.createdAt },
      storedBytes: disks.reduce((sum, { storedBytes }) => sum + storedBytes, 0),
    });
  }
  const { bsize, blocks, bavail } = await statfs(vault.path);
  return {
    vault: { id: vault.id, path: vault.path },
    totalBytes: blocks * bsize,
    freeBytes: bavail * bsize,
    storedBytes: vms.reduce((sum, { storedBytes }) => sum + storedBytes, 0),
    vms,
  };
}
