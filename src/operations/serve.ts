/** Showing the disks of a restore point over NBD, read-only, until it is cancelled. */
import { z } from 'zod';
import { servePoint } from '../restore/serve.ts';
import { vmParam } from '../rpc/params.ts';
import { type OperationContext, openVault, selectorOrLatest, socketParam, vaultParam } from './operation.ts';

export const params = z.strictObject({
  vault: vaultParam,
  vm: vmParam,
  point: selectorOrLatest,
  socket: socketParam.optional().describe('where to serve'),
});

/** @throws as servePoint and openVault */
export async function run({ vault, ...request }: z.output<typeof params>, context: OperationContext) {
  const { engine, signal = new AbortController().signal, onReady } = context;
  return servePoint(engine, await openVault(vault, context), request, {
    signal,
    onServing: (served) => onReady?.(served),
  });
}
