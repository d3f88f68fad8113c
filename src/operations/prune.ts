/** Deleting what a policy no longer keeps. */
import { z } from 'zod';
import { keepParam, vmParam } from '../rpc/params.ts';
import { prune } from '../upkeep/prune.ts';
import { type OperationContext, openVaultToChange, vaultParam } from './operation.ts';

export const params = z.strictObject({
  vault: vaultParam,
  vm: vmParam,
  keep: keepParam.nullable().default(null).describe('null: all are kept, as far as maxChain allows'),
  timeZone: z.string().default(() => Intl.DateTimeFormat().resolvedOptions().timeZone),
  maxChain: z
    .int()
    .positive()
    .optional()
    .describe('the oldest points of a longer chain are merged into its full'),
  dryRun: z.boolean().default(false),
  waitMs: z.int().min(0).default(0),
  breakLease: z.boolean().default(false),
});

/** @throws as prune and openVault */
export async function run({ vault, ...request }: z.output<typeof params>, context: OperationContext) {
  const { engine, signal } = context;
  const result = await prune(engine, await openVaultToChange(vault, context), request, { signal });
  return { ...result, dryRun: request.dryRun };
}
