import { QmpvaultError } from '../base/errors.ts';
import type { VmName } from '../base/ids.ts';
import type { Vault } from '../vault/vault.ts';
import type { VmFolder } from '../vault/vm-folder.ts';

/** The folder of a VM that the vault has. @throws vm-unknown, vault-away, vault-unreadable */
export async function knownVm(vault: Vault, name: VmName): Promise<VmFolder> {
  const vm = vault.vm(name);
  if (await vm.exists()) return vm;
  throw new QmpvaultError('vm-unknown', `the vault ${vault.path} has no VM ${name}`, {
    details: { vault: vault.path, vm: name },
  });
}
