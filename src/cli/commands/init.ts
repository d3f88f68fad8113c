import type { Command } from 'commander';
import { folderOf } from '../options.ts';
import type { Shell } from '../shell.ts';

export function addInit(program: Command, shell: Shell): void {
  program
    .command('init')
    .description('make a new vault')
    .argument('<dir>', 'its folder, made when it is missing', folderOf)
    .option('--new-vault', 'also where another vault is known, which is then given up')
    .action(async (dir: string, { newVault }: { newVault?: boolean }, command: Command) => {
      const params = { vault: dir, newVault };
      const { vault } = await shell.perform(command, 'init', params, { doing: `making the vault ${dir}` });
      await shell.output.result({ json: { vault }, text: `vault ${vault.id} at ${vault.path}\n` });
    });
}
