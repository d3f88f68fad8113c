import type { Command } from 'commander';
import { QmpvaultError } from '../../base/errors.ts';
import type { VmName } from '../../base/ids.ts';
import type { Result } from '../../operations/index.ts';
import { vaultOption, vmArgument } from '../options.ts';
import type { Shell } from '../shell.ts';
import { table } from '../table.ts';

interface HoldsOptions {
  readonly vault: string;
  readonly end?: string;
  readonly force?: boolean;
}

export function addHolds(program: Command, shell: Shell): void {
  program
    .command('holds')
    .description('show what outside of the vault stands on points of a VM: its instant restores')
    .addArgument(vmArgument())
    .addOption(vaultOption())
    .option('--end <id>', 'it needs its point no more')
    .option('--force', 'even if its files still stand on the point')
    .action(async (vm: VmName, { end, force }: HoldsOptions, command: Command) => {
      if (force && end === undefined) throw new QmpvaultError('usage', '--force goes with --end ID');
      const found = await shell.perform(
        command,
        'holds',
        { vm, end, force },
        { doing: `the holds of ${vm}` },
      );
      await shell.output.result({ json: found, text: holdsText(found) });
    });
}

export function holdsText({ holds, ended }: Result<'holds'>): string {
  const gone = ended.map(({ id }) => `${id} has ended\n`).join('');
  if (holds.length === 0) return `${gone}no holds\n`;
  const rows = holds.flatMap(({ id, point, what, host, since, disks }) =>
    disks.map(({ disk, path }) => [id, point, disk, what, since, `${host}:${path}`]),
  );
  return `${gone}${table(['HOLD', 'POINT', 'DISK', 'WHAT', 'SINCE', 'IMAGE'], rows)}`;
}
