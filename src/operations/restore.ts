/** Bringing the disks of a restore point back. */
import { z } from 'zod';
import { QmpvaultError } from '../base/errors.ts';
import { restoreInstantly } from '../restore/instant.ts';
import { restorePoint } from '../restore/restore.ts';
import type { RestoreTarget } from '../restore/restore-plan.ts';
import { formatParam, vmParam } from '../rpc/params.ts';
import {
  imagesParam,
  type OperationContext,
  openVault,
  openVaultToChange,
  selectorOrLatest,
  vaultParam,
} from './operation.ts';

export const params = z.strictObject({
  vault: vaultParam,
  vm: vmParam,
  point: selectorOrLatest,
  to: z.string().min(1).optional().describe('all disks into this folder, as <disk>.<format>'),
  disks: imagesParam.optional().describe('some disks to files or block devices'),
  format: formatParam.default('qcow2'),
  instant: z
    .boolean()
    .default(false)
    .describe('copy nothing: overlays that need the vault until they are filled'),
  force: z.boolean().default(false).describe('overwrite what is there'),
});

/** @throws as restorePoint and openVault */
export async function run(
  { vault, to, disks, instant, ...request }: z.output<typeof params>,
  context: OperationContext,
) {
  const { engine, signal, onProgress } = context;
  const target = targetOf(to, disks);
  if (instant) {
    if (request.format !== 'qcow2') throw new QmpvaultError('usage', 'an instant restore makes qcow2 images');
    const opened = await openVaultToChange(vault, context);
    return restoreInstantly(engine, opened, { ...request, target }, { signal });
  }
  return restorePoint(
    engine.tools,
    await openVault(vault, context),
    { ...request, target },
    {
      signal,
      onProgress: ({ disks }) =>
        onProgress?.({
          phase: 'copying',
          disks: disks.map(({ name, fraction, totalBytes }) => ({
            name,
            doneBytes: Math.round(fraction * totalBytes),
            totalBytes,
          })),
        }),
    },
  );
}

function targetOf(to: string | undefined, disks: z.output<typeof imagesParam> | undefined): RestoreTarget {
  if (to !== undefined && disks === undefined) return { dir: to };
  if (disks !== undefined && to === undefined) return { disks };
  throw new QmpvaultError(
    'usage',
    'where to? Name either a folder (to) or the targets of some disks (disks)',
  );
}
