/** What a VM is, and what its next backup will be. Changes nothing. */
import { z } from 'zod';
import { inspectVm } from '../backup/inspect.ts';
import { vmParam } from '../rpc/params.ts';
import { imagesParam, type OperationContext, openVault, socketParam, vaultParam } from './operation.ts';

export const params = z.strictObject({
  vault: vaultParam.optional(),
  vm: vmParam,
  qmp: socketParam.optional(),
  images: imagesParam.optional(),
  fullEvery: z.int().default(10),
});

/** @throws as inspectVm and openVault */
export async function run({ vault: path, ...request }: z.output<typeof params>, context: OperationContext) {
  const vault = path === undefined ? null : await openVault(path, context);
  return inspectVm(context.engine, vault, request, { signal: context.signal });
}
