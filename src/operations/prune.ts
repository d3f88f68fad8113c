/** Deleting what a policy no longer keeps. */
import { z } from 'zod';
import { QmpvaultError } from '../base/errors.ts';
import { keepParam, vmParam } from '../rpc/params.ts';
import { prune } from '../upkeep/prune.ts';
import { type OperationContext, openVaultToChange, vaultParam, workProgress } from './operation.ts';

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

/** @throws usage without any rule; as prune and openVault */
export async function run({ vault, ...request }: z.output<typeof params>, context: OperationContext) {
  if (request.keep === null && request.maxChain === undefined) {
    throw new QmpvaultError('usage', 'what is to be kept? Give at least one rule of keep, or maxChain');
  }
  const { engine, signal } = context;
  const result = await prune(engine, await openVaultToChange(vault, context), request, {
    signal,
    onWork: workProgress(context),
  });
  return { ...result, dryRun: request.dryRun };
}
