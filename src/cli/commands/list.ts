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
    .option('--no-cache', 'read every manifest, also those that have not changed since they were listed last')
    .action(async (vm: VmName | undefined, { cache }: { cache: boolean }, command: Command) => {
      const found = await shell.perform(
        command,
        'list',
        { vm, cache },
        { doing: 'the list of restore points' },
      );
      await shell.output.result({
        json: found,
        text: () => pointTable(found.points, vm === undefined),
        warnings: found.warnings,
      });
    });
}
