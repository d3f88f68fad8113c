import type { Command } from 'commander';
import { QmpvaultError } from '../../base/errors.ts';
import type { VmName } from '../../base/ids.ts';
import type { Result } from '../../operations/index.ts';
import { qmpOption, vaultOption, vmArgument } from '../options.ts';
import type { Shell } from '../shell.ts';
import { table } from '../table.ts';

interface BitmapsOptions {
  readonly qmp: string;
  readonly removeOrphans?: boolean;
  readonly remove?: boolean;
}

export function addBitmaps(program: Command, shell: Shell): void {
  program
    .command('bitmaps')
    .description('show the dirty bitmaps of a running VM and whose they are')
    .addArgument(vmArgument())
    .addOption(vaultOption())
    .addOption(qmpOption())
    .option('--remove-orphans', 'remove those of this vault that no point and no run knows')
    .option('--remove', 'remove all of qmpvault; the next backup reads all disks again')
    .action(async (vm: VmName, options: BitmapsOptions, command: Command) => {
      const { qmp, removeOrphans, remove } = options;
      if (remove && removeOrphans)
        throw new QmpvaultError('usage', '--remove and --remove-orphans exclude each other');
      const params = { vm, qmp, remove: remove ? 'ours' : removeOrphans ? 'orphans' : undefined } as const;
      const found = await shell.perform(command, 'bitmaps', params, { doing: `the bitmaps of ${vm}` });
      const text = bitmapsText(found.bitmaps, found.removed);
      await shell.output.result({ json: found, text, warnings: found.warnings });
    });
}

type Bitmaps = Result<'bitmaps'>['bitmaps'];

export function bitmapsText(bitmaps: Bitmaps, removed: Bitmaps): string {
  const rows = (entries: Bitmaps) => entries.map(({ node, name, words }) => [node, name, words]);
  const gone = removed.map(({ node, name }) => `removed ${name} from ${node}\n`).join('');
  if (bitmaps.length === 0) return `${gone}no bitmaps`;
  return `${gone}${table(['NODE', 'BITMAP', 'WHAT'], rows(bitmaps))}`;
}
