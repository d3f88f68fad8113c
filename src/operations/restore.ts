/** Bringing the disks of a restore point back. */
import { z } from 'zod';
import { QmpvaultError } from '../base/errors.ts';
import { type InPlaceResult, restoreInPlace } from '../restore/in-place.ts';
import { type InstantResult, restoreInstantly } from '../restore/instant.ts';
import { type RestoreControl, type RestoreResult, restorePoint } from '../restore/restore.ts';
import type { RestoreTarget } from '../restore/restore-plan.ts';
import { formatParam, vmParam } from '../rpc/params.ts';
import { isListening } from '../vm/vm-process.ts';
import {
  imagesParam,
  type OperationContext,
  openVault,
  openVaultToChange,
  selectorOrLatest,
  socketParam,
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
  inPlace: z.boolean().default(false).describe("in the place of the stopped VM's own images"),
  keepOld: z.boolean().default(false).describe('with inPlace: keep what was there under other names'),
  qmp: socketParam.optional().describe('with inPlace: the socket of the VM, on which nobody may listen'),
  force: z.boolean().default(false).describe('overwrite what is there'),
});

/** @throws as restorePoint and openVault */
export async function run(
  { vault, to, disks, instant, inPlace, keepOld, qmp, ...request }: z.output<typeof params>,
  context: OperationContext,
): Promise<RestoreResult & Partial<Pick<InPlaceResult, 'kept'> & Pick<InstantResult, 'hold'>>> {
  const { engine, signal, onProgress } = context;
  const control: RestoreControl = {
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
  };
  if (inPlace) {
    if (to !== undefined || disks !== undefined || instant) {
      throw new QmpvaultError('usage', 'in place means the own images of the VM: name no other target');
    }
    if (qmp !== undefined) await refuseRunning(qmp);
    return restoreInPlace(engine, await openVault(vault, context), { ...request, keepOld }, control);
  }
  if (keepOld || qmp !== undefined) throw new QmpvaultError('usage', 'keepOld and qmp go with inPlace');
  const target = targetOf(to, disks);
  if (instant) {
    if (request.format !== 'qcow2') throw new QmpvaultError('usage', 'an instant restore makes qcow2 images');
    const opened = await openVaultToChange(vault, context);
    return restoreInstantly(engine, opened, { ...request, target }, { signal });
  }
  return restorePoint(engine.tools, await openVault(vault, context), { ...request, target }, control);
}

async function refuseRunning(qmp: string): Promise<void> {
  if (!(await isListening(qmp))) return;
  throw new QmpvaultError('vm-busy', `the VM on ${qmp} runs: stop it first`, { details: { socket: qmp } });
}

function targetOf(to: string | undefined, disks: z.output<typeof imagesParam> | undefined): RestoreTarget {
  if (to !== undefined && disks === undefined) return { dir: to };
  if (disks !== undefined && to === undefined) return { disks };
  throw new QmpvaultError(
    'usage',
    'where to? Name either a folder (to) or the targets of some disks (disks)',
  );
}
