/** What outside of the vault stands on points of a VM; ending that on an operator's word. */
import { z } from 'zod';
import { endHold } from '../restore/holds.ts';
import { vmParam } from '../rpc/params.ts';
import type { Hold } from '../vault/holds.ts';
import { knownVm } from './known-vm.ts';
import { type OperationContext, openVault, vaultParam } from './operation.ts';

export const params = z.strictObject({
  vault: vaultParam,
  vm: vmParam,
  end: z.string().optional().describe('the id of one to end'),
  force: z.boolean().default(false).describe('end it also if its files still need the point'),
});

/** @returns `holds`: those that are there afterwards @throws as endHold and openVault */
export async function run({ vault, vm, end, force }: z.output<typeof params>, context: OperationContext) {
  const folder = await knownVm(await openVault(vault, context), vm);
  const ended = end === undefined ? [] : [await endHold(folder, { id: end, force })];
  return { holds: (await folder.holds()).map(holdJson), ended: ended.map(holdJson) };
}

function holdJson({ id, point, what, host, since, disks }: Hold) {
  return { id, point, what, host, since, disks: disks.map(({ name, path }) => ({ disk: name, path })) };
}
