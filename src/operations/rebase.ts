/** Making a point stand on an older one of its chain; those in between stay. */
import { z } from 'zod';
import { pointId } from '../base/ids.ts';
import { vmParam } from '../rpc/params.ts';
import { rebasePoint } from '../upkeep/rebase.ts';
import { type OperationContext, openVaultToChange, vaultParam } from './operation.ts';
import { pointJson } from './point-json.ts';

const idParam = z.string().transform((id) => pointId(id));

export const params = z.strictObject({
  vault: vaultParam,
  vm: vmParam,
  point: idParam,
  onto: idParam.describe('an ancestor of the point'),
  waitMs: z.int().min(0).default(0),
});

/** @throws as rebasePoint and openVault */
export async function run({ vault, ...request }: z.output<typeof params>, context: OperationContext) {
  const { engine, signal } = context;
  const changed = await rebasePoint(engine, await openVaultToChange(vault, context), request, { signal });
  return { changed: changed.map(pointJson) };
}
