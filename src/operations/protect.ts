/** Whether prune and delete may take a restore point. */
import { z } from 'zod';
import { selectorParam, vmParam } from '../rpc/params.ts';
import { protectPoint } from '../upkeep/protect.ts';
import { type OperationContext, openVaultToChange, vaultParam } from './operation.ts';
import { pointJson } from './point-json.ts';

export const params = z.strictObject({
  vault: vaultParam,
  vm: vmParam,
  point: selectorParam,
  protect: z.boolean().default(true),
  waitMs: z.int().min(0).default(0),
});

/** @throws as protectPoint and openVault */
export async function run({ vault, ...request }: z.output<typeof params>, context: OperationContext) {
  const opened = await openVaultToChange(vault, context);
  return { point: pointJson(await protectPoint(opened, { ...request, signal: context.signal })) };
}
