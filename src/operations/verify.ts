/** Proving that restore points can be restored. Damage is a result, no error. */
import { z } from 'zod';
import { bootParam, levelParam, selectorParam, vmParam } from '../rpc/params.ts';
import { verify } from '../upkeep/verify.ts';
import { type OperationContext, openVaultToChange, vaultParam, workProgress } from './operation.ts';

export const params = z.strictObject({
  vault: vaultParam,
  vm: vmParam.optional(),
  point: selectorParam.optional(),
  level: levelParam.default('quick'),
  boot: bootParam.optional().describe('a guest has to come up from each point too'),
  oldest: z
    .int()
    .positive()
    .optional()
    .describe('only so many: those not looked at so closely, or booted from, for the longest time'),
});

/** @throws as verify and openVault */
export async function run({ vault, boot, ...request }: z.output<typeof params>, context: OperationContext) {
  const { engine, signal } = context;
  const line = boot?.line === undefined ? undefined : new RegExp(boot.line);
  const wish = { ...request, boot: boot && { ...boot, line } };
  return verify(engine, await openVaultToChange(vault, context), wish, {
    signal,
    onWork: workProgress(context),
  });
}
