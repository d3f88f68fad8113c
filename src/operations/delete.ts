/** Deleting one restore point, so that all the others stay. */
import { z } from 'zod';
import { descendantsParam, selectorParam, vmParam } from '../rpc/params.ts';
import { deletePoint } from '../upkeep/delete.ts';
import { type OperationContext, openOrMake, vaultParam, workProgress } from './operation.ts';
import { pointJson } from './point-json.ts';

export const params = z.strictObject({
  vault: vaultParam,
  init: z
    .boolean()
    .default(false)
    .describe("make the vault when it is missing: the point is somebody else's"),
  vm: vmParam,
  point: selectorParam,
  exact: z.boolean().default(false).describe('only an id will do'),
  descendants: descendantsParam.default('refuse'),
  waitMs: z.int().min(0).default(0),
  breakLease: z.boolean().default(false),
});

/** @throws as deletePoint and openVault */
export async function run({ vault, init, ...request }: z.output<typeof params>, context: OperationContext) {
  const { engine, signal } = context;
  const opened = await openOrMake(vault, { init }, context);
  const { changed, ...result } = await deletePoint(engine, opened, request, {
    signal,
    onWork: workProgress(context),
  });
  return { ...result, changed: changed.map(pointJson) };
}
