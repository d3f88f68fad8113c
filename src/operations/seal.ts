/** Ending a chain: the next backup begins a new one. */
import { z } from 'zod';
import { vmParam } from '../rpc/params.ts';
import { sealPoint } from '../upkeep/seal.ts';
import { type OperationContext, openVaultToChange, selectorOrLatest, vaultParam } from './operation.ts';
import { pointJson } from './point-json.ts';

export const params = z.strictObject({
  vault: vaultParam,
  vm: vmParam,
  point: selectorOrLatest,
  waitMs: z.int().min(0).default(0),
});

/** @throws as sealPoint and openVault */
export async function run({ vault, ...request }: z.output<typeof params>, context: OperationContext) {
  const opened = await openVaultToChange(vault, context);
  return { point: pointJson(await sealPoint(opened, { ...request, signal: context.signal })) };
}
