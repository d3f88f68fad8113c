import type { Command } from 'commander';
import { initVault } from '../../vault/vault.ts';
import { folderOf } from '../options.ts';
import type { Shell } from '../shell.ts';

export function addInit(program: Command, { output, memory }: Shell): void {
  program
    .command('init')
    .description('make a new vault')
    .argument('<dir>', 'its folder, made when it is missing', folderOf)
    .option('--new-vault', 'also where another vault is known, which is then given up')
    .action(async (dir: string, { newVault = false }: { newVault?: boolean }) => {
      const { id, path } = await initVault(dir, { memory, newVault });
      await output.result({ json: { vault: { id, path } }, text: `vault ${id} at ${path}\n` });
    });
}
