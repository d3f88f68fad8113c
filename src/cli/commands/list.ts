import type { Command } from 'commander';
import type { VmName } from '../../base/ids.ts';
import type { Manifest } from '../../vault/manifest.ts';
import type { Vault } from '../../vault/vault.ts';
import type { VmFolder } from '../../vault/vm-folder.ts';
import { vaultOption, vmArgument } from '../options.ts';
import { pointJson } from '../point-json.ts';
import { pointTable } from '../point-text.ts';
import type { Shell } from '../shell.ts';

export function addList(program: Command, shell: Shell): void {
  program
    .command('list')
    .description('list the restore points of a VM, or of all')
    .addArgument(vmArgument('[vm]'))
    .addOption(vaultOption().makeOptionMandatory())
    .action(async (vm: VmName | undefined, { vault: path }: { vault: string }) => {
      const { points, warnings } =
        vm === undefined
          ? await listAll(await shell.openVault(path))
          : await listOne(await shell.openVm(path, vm));
      await shell.output.result({
        json: { points: points.map(pointJson), warnings },
        text: pointTable(points, vm === undefined),
        warnings,
      });
    });
}

interface Listed {
  readonly points: readonly Manifest[];
  readonly warnings: readonly string[];
}

/** One VM's files are too few to keep a disk busy (m: 1,000 VMs of 30 points 3.6 s one by one, 1.4 s like this). */
const VMS_AT_ONCE = 8;

async function listAll(vault: Vault): Promise<Listed> {
  const listed: Listed[] = [];
  const names = (await vault.vmNames()).entries();
  const listSome = async () => {
    for (const [i, name] of names) listed[i] = await listOne(vault.vm(name));
  };
  await Promise.all(Array.from({ length: VMS_AT_ONCE }, listSome));
  return {
    points: listed
      .flatMap(({ points }) => points)
      .toSorted((a, b) => Date.parse(a.createdAt) - Date.parse(b.createdAt)),
    warnings: listed.flatMap(({ warnings }) => warnings),
  };
}

async function listOne(vm: VmFolder): Promise<Listed> {
  const { points, broken } = await vm.points();
  return {
    points,
    warnings: broken.map(({ id, error }) => `${vm.name}: the point ${id} cannot be read: ${error.message}`),
  };
}
