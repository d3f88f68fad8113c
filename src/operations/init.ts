/** Making a vault. */
import { z } from 'zod';
import { VaultMemory } from '../vault/memory.ts';
import { initVault } from '../vault/vault.ts';
import { type OperationContext, vaultParam } from './operation.ts';

export const params = z.strictObject({
  vault: vaultParam,
  newVault: z.boolean().default(false).describe('also where another vault is known, which is then given up'),
});

/** @throws vault-known, vault-full, vault-unreadable, vault-format, sync-failed */
export async function run({ vault, newVault }: z.output<typeof params>, { engine }: OperationContext) {
  const { id, path } = await initVault(vault, { memory: new VaultMemory(engine.stateDir), newVault });
  return { vault: { id, path } };
}
