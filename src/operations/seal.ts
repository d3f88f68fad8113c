/** Ending a chain: the next backup begins a new one. */
import { z } from 'zod';
import { sealPoint } from '../upkeep/seal.ts';
import { type OperationContext, openVaultToChange, selectorParam, vaultParam, vmParam } from './operation.ts';
import { pointJson } from './point-json.ts';

export const params = z.strictObject({
  vault: vaultParam,
  vm: vmParam,
  point: selectorParam,
  waitMs: z.int().min(0).default(0),
});

/** @throws as sealPoint and openVault */
export async function run({ vault, ...request }: z.output<typeof params>, context: OperationContext) {
  const opened = await openVaultToChange(vault, context);
  return { point: pointJson(await sealPoint(opened, { ...request, signal: context.signal })) };
}
