/** Filling what a VM runs on since its instant restore, until it needs the vault no more. */
import { z } from 'zod';
import { fillVm } from '../backup/fill.ts';
import { vmParam } from '../rpc/params.ts';
import { type OperationContext, openVault, socketParam, vaultParam } from './operation.ts';

export const params = z.strictObject({
  vault: vaultParam,
  vm: vmParam,
  qmp: socketParam,
  bandwidth: z.int().positive().optional().describe('bytes per second'),
  noProgressMs: z.int().positive().optional(),
});

/** @throws as fillVm and openVault */
export async function run({ vault, ...request }: z.output<typeof params>, context: OperationContext) {
  const { engine, signal, onProgress } = context;
  return fillVm(engine, await openVault(vault, context), request, { signal, onProgress });
}
