/** Making one restore point of a VM. */
import { z } from 'zod';
import { backUp } from '../backup/backup.ts';
import { codeOf, QmpvaultError } from '../base/errors.ts';
import type { VmName } from '../base/ids.ts';
import { pointId } from '../base/ids.ts';
import { Replacement } from '../restore/replacement.ts';
import { diskParam, newPointParam, quiesceParam, vmParam } from '../rpc/params.ts';
import { VaultMemory } from '../vault/memory.ts';
import { initVault, type Vault } from '../vault/vault.ts';
import {
  imagesParam,
  type OperationContext,
  openVaultToChange,
  socketParam,
  vaultParam,
} from './operation.ts';
import { pointJson } from './point-json.ts';

const besideParam = z
  .record(z.string(), z.string())
  .transform((texts) => new Map(Object.entries(texts)))
  .describe('texts to lie beside the images, by file name');

export const params = z.strictObject({
  vault: vaultParam,
  init: z.boolean().default(false).describe('make the vault when it is missing'),
  newVault: z.boolean().default(false).describe('with init: also where another vault is known'),
  vm: vmParam,
  qmp: socketParam.optional(),
  agent: socketParam.optional(),
  naming: z.enum(['device', 'image']).optional().describe('by what its disks are called'),
  images: imagesParam.optional(),
  onlyImages: z.boolean().optional().describe('images names all disks there are'),
  quiesce: quiesceParam.default('auto'),
  full: z.boolean().optional(),
  fullEvery: z.int().default(10),
  exclude: z.array(diskParam).optional(),
  bandwidth: z.number().positive().optional().describe('bytes per second, over all disks'),
  point: newPointParam.optional(),
  files: z
    .array(z.string().includes('{disk}'))
    .min(1)
    .optional()
    .describe("names of the disks' files in the point, in order, the last one for all that follow"),
  parent: z

    .strictObject({ point: z.string().transform((id) => pointId(id)), bitmapAlias: z.string().optional() })
    .optional()
    .describe('what it is to stand on; else it is a full'),
  bitmapAlias: z.string().min(1).optional().describe('what the caller calls its bitmaps'),
  beside: besideParam.optional(),
  freezeMs: z.int().positive().optional().describe('how long the guest agent may take to freeze'),
  resume: z
    .boolean()
    .optional()
    .describe(
      'it was begun before, by an engine that died: the point of that run is the result, if there is one',
    ),
  noProgressMs: z.int().positive().optional(),
  withoutSnapshot: z.boolean().optional(),
});

/** @throws as backUp and openVault */
export async function run(wishes: z.output<typeof params>, context: OperationContext) {
  const { vault: path, init, newVault, ...request } = wishes;
  if (request.quiesce === 'required' && request.agent === undefined) {
    throw new QmpvaultError('usage', 'freezing is required, and no socket of the guest agent is named');
  }
  const vault = await openOrMake(path, { init, newVault }, context);
  const { engine, signal, onProgress, bandwidth } = context;
  const finished = await finishRestore(vault, request.vm, context);
  const { point, warnings } = await backUp(engine, vault, request, { signal, onProgress, bandwidth });
  return { point: pointJson(point), warnings: [...finished, ...warnings] };
}

/** What a restore in place that was killed left is no state to back up, unless the VM runs on it already. @returns warnings */
async function finishRestore(vault: Vault, vm: VmName, { engine }: OperationContext): Promise<string[]> {
  try {
    return await Replacement.finish(engine, vault, vm);
  } catch (error) {
    if (codeOf(error) !== 'vm-busy') throw error;
    return [
      `a restore of ${vm} in place was interrupted, and the VM started since: its disks may be of two moments. Stop it, and repeat the restore`,
    ];
  }
}

async function openOrMake(
  path: string,
  { init, newVault }: { init: boolean; newVault: boolean },
  context: OperationContext,
): Promise<Vault> {
  try {
    return await openVaultToChange(path, context);
  } catch (error) {
    const mayMake = codeOf(error) === 'vault-missing' || (newVault && codeOf(error) === 'vault-away');
    if (!init || !mayMake) throw error;
    return initVault(path, { memory: new VaultMemory(context.engine.stateDir), newVault });
  }
}
