/** Which restore point of a VM stands on which. */
import { z } from 'zod';
import { vmParam } from '../rpc/params.ts';
import { knownVm } from './known-vm.ts';
import { type OperationContext, openVault, vaultParam } from './operation.ts';
import { pointJson } from './point-json.ts';

export const params = z.strictObject({ vault: vaultParam, vm: vmParam });

/** @throws vm-unknown, and what openVault throws */
export async function run({ vault, vm }: z.output<typeof params>, context: OperationContext) {
  const { points, broken } = await (await knownVm(await openVault(vault, context), vm)).points();
  return {
    vm,
    points: points.map(pointJson),
    broken: broken.map(({ id }) => id),
    warnings: broken.map(({ id, error }) => `the point ${id} cannot be read: ${error.message}`),
  };
}
