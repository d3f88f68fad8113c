import type { Command } from 'commander';
import type { VmName } from '../../base/ids.ts';
import { vaultOption, vmArgument } from '../options.ts';
import { pointTable } from '../point-text.ts';
import type { Shell } from '../shell.ts';

export function addList(program: Command, shell: Shell): void {
  program
    .command('list')
    .description('list the restore points of a VM, or of all')
    .addArgument(vmArgument('[vm]'))
    .addOption(vaultOption())
    .action(async (vm: VmName | undefined, _options: unknown, command: Command) => {
      const found = await shell.perform(command, 'list', { vm }, { doing: 'the list of restore points' });
      await shell.output.result({
        json: found,
        text: () => pointTable(found.points, vm === undefined),
        warnings: found.warnings,
      });
    });
}
