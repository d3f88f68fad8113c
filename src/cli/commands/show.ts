import { Argument, type Command } from 'commander';
import type { VmName } from '../../base/ids.ts';
import { vaultOption, vmArgument } from '../options.ts';
import { pointDetails } from '../point-text.ts';
import type { Shell } from '../shell.ts';

export function addShow(program: Command, shell: Shell): void {
  program
    .command('show')
    .description('show one restore point: its disks, its chain, how it was made')
    .addArgument(vmArgument())
    .addArgument(new Argument('<point>', "its id, a unique beginning of it, or 'latest'"))
    .addOption(vaultOption())
    .action(async (vm: VmName, point: string, _options: unknown, command: Command) => {
      const found = await shell.perform(command, 'show', { vm, point }, { doing: `looking for ${point}` });
      const chain = found.chainTrouble ?? found.chain.join(' <- ');
      await shell.output.result({ json: found, text: pointDetails(found.point, chain) });
    });
}
