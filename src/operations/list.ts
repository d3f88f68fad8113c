/** The restore points of one VM, or of all. */
import { z } from 'zod';
import { vmParam } from '../rpc/params.ts';
import type { Vault } from '../vault/vault.ts';
import { knownVm } from './known-vm.ts';
import { listInThreads } from './list-threads.ts';
import { type Listed, listHere, listOne } from './list-vms.ts';
import { type OperationContext, openVault, vaultParam } from './operation.ts';

export const params = z.strictObject({ vault: vaultParam, vm: vmParam.optional() });

/** Oldest first. @throws vm-unknown, and what openVault throws */
export async function run(
  { vault: path, vm }: z.output<typeof params>,
  context: OperationContext,
): Promise<Listed> {
  const vault = await openVault(path, context);
  return vm === undefined ? listAll(vault) : listOne(await knownVm(vault, vm));
}

/** Fewer are read before threads have started. */
const WORTH_VMS = 50;

async function listAll(vault: Vault): Promise<Listed> {
  const names = await vault.vmNames();
  const listed = names.length < WORTH_VMS ? await listHere(vault, names) : await listInThreads(vault, names);
  return {
    points: listed
      .flatMap(({ points }) => points)
      .map((point) => ({ point, at: Date.parse(point.createdAt) }))
      .toSorted((a, b) => a.at - b.at)
      .map(({ point }) => point),
    warnings: listed.flatMap(({ warnings }) => warnings),
  };
}
