import { Argument, type Command } from 'commander';
import type { VmName } from '../../base/ids.ts';
import type { Result } from '../../operations/index.ts';
import { familyOf, treeRows, treeText } from '../chain-tree.ts';
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
      const text = shell.output.isJson ? '' : await inWords(shell, command, found);
      await shell.output.result({ json: found, text });
    });
}

/** With the chain drawn, in which the point is one of several. */
async function inWords(
  shell: Shell,
  command: Command,
  { point, chain, chainTrouble }: Result<'show'>,
): Promise<string> {
  const { points } = await shell.perform(
    command,
    'chain',
    { vm: point.vm },
    { doing: `the chain of ${point.id}` },
  );
  const tree = treeText(treeRows(familyOf(points, point.id)), point.id);
  return `${pointDetails(point, chainTrouble ?? chain.join(' <- '))}\n${tree}`;
}
