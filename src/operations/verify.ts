/** Proving that restore points can be restored. Damage is a result, no error. */
import { z } from 'zod';
import { levelParam, selectorParam, vmParam } from '../rpc/params.ts';
import { verify } from '../upkeep/verify.ts';
import { type OperationContext, openVaultToChange, vaultParam } from './operation.ts';

export const params = z.strictObject({
  vault: vaultParam,
  vm: vmParam.optional(),
  point: selectorParam.optional(),
  level: levelParam.default('quick'),
  oldest: z
    .int()
    .positive()
    .optional()
    .describe('only so many: those not looked at so closely for the longest time'),
});

/** @throws as verify and openVault */
export async function run({ vault, ...request }: z.output<typeof params>, context: OperationContext) {
  const { engine, signal } = context;
  return verify(engine, await openVaultToChange(vault, context), request, { signal });
}
