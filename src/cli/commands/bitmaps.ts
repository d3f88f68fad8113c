import type { Command } from 'commander';
import { type ListedBitmap, vmBitmaps } from '../../backup/bitmaps.ts';
import { QmpvaultError } from '../../base/errors.ts';
import type { VmName } from '../../base/ids.ts';
import { qmpOption, vaultOption, vmArgument } from '../options.ts';
import type { Shell } from '../shell.ts';
import { table } from '../table.ts';

interface BitmapsOptions {
  readonly vault: string;
  readonly qmp: string;
  readonly removeOrphans?: boolean;
  readonly remove?: boolean;
}

export function addBitmaps(program: Command, shell: Shell): void {
  program
    .command('bitmaps')
    .description('show the dirty bitmaps of a running VM and whose they are')
    .addArgument(vmArgument())
    .addOption(vaultOption().makeOptionMandatory())
    .addOption(qmpOption().makeOptionMandatory())
    .option('--remove-orphans', 'remove those of this vault that no point and no run knows')
    .option('--remove', 'remove all of qmpvault; the next backup reads all disks again')
    .action(async (vm: VmName, options: BitmapsOptions, command: Command) => {
      const { vault: path, qmp, removeOrphans, remove } = options;
      if (remove && removeOrphans)
        throw new QmpvaultError('usage', '--remove and --remove-orphans exclude each other');
      const vault = await shell.openVault(path);
      shell.interruption.doing(`the bitmaps of ${vm}`);
      const request = { vm, qmp, remove: remove ? 'ours' : removeOrphans ? 'orphans' : undefined } as const;
      const { signal } = shell.interruption;
      const { warnings, ...found } = await vmBitmaps(shell.engine(command, {}), vault, request, { signal });
      const text = bitmapsText(found.bitmaps, found.removed);
      await shell.output.result({ json: { ...found, warnings }, text, warnings });
    });
}

export function bitmapsText(bitmaps: readonly ListedBitmap[], removed: readonly ListedBitmap[]): string {
  const rows = (entries: readonly ListedBitmap[]) =>
    entries.map(({ node, name, words }) => [node, name, words]);
  const gone = removed.map(({ node, name }) => `removed ${name} from ${node}\n`).join('');
  if (bitmaps.length === 0) return `${gone}no bitmaps`;
  return `${gone}${table(['NODE', 'BITMAP', 'WHAT'], rows(bitmaps))}`;
}
