/** The dirty bitmaps of a running VM. */
import { z } from 'zod';
import { vmBitmaps } from '../backup/bitmaps.ts';
import { vmParam } from '../rpc/params.ts';
import { type OperationContext, openVault, socketParam, vaultParam } from './operation.ts';

export const params = z.strictObject({
  vault: vaultParam,
  vm: vmParam,
  qmp: socketParam,
  remove: z
    .enum(['orphans', 'ours'])
    .optional()
    .describe("'orphans': those that no point and no run knows; 'ours': all of qmpvault"),
});

/** @throws as vmBitmaps and openVault */
export async function run({ vault, ...request }: z.output<typeof params>, context: OperationContext) {
  return vmBitmaps(context.engine, await openVault(vault, context), request, { signal: context.signal });
}
