import { type Command, Option } from 'commander';
import type { VmName } from '../../base/ids.ts';
import { formatBytes } from '../../base/units.ts';
import { breakLeaseOption, pointArgument, vaultOption, vmArgument, waitOption } from '../options.ts';
import type { Shell } from '../shell.ts';

interface DeleteOptions {
  readonly keepDescendants?: boolean;
  readonly withDescendants?: boolean;
  readonly wait: number;
  readonly breakLease?: boolean;
}

export function addDelete(program: Command, shell: Shell): void {
  program
    .command('delete')
    .description('delete one restore point; all others stay as they are')
    .addArgument(vmArgument())
    .addArgument(pointArgument())
    .addOption(vaultOption())
    .option('--keep-descendants', 'of a full: its first child becomes the full')
    .addOption(
      new Option('--with-descendants', 'delete all points that need it too').conflicts('keepDescendants'),
    )
    .addOption(waitOption())
    .addOption(breakLeaseOption())
    .action(async (vm: VmName, point: string, options: DeleteOptions, command: Command) => {
      await remove(shell, command, vm, point, options);
    });
}

async function remove(
  shell: Shell,
  command: Command,
  vm: VmName,
  point: string,
  { keepDescendants, withDescendants, wait, breakLease }: DeleteOptions,
): Promise<void> {
  const descendants = withDescendants ? 'delete' : keepDescendants ? 'keep' : 'refuse';
  using bars = await shell.output.progressBars();
  const result = await shell.perform(
    command,
    'delete',
    { vm, point, descendants, waitMs: wait * 1000, breakLease },
    { doing: `the delete of ${point} of ${vm}`, onProgress: (now) => bars?.showWork(now) },
  );
  bars?.stop();
  const { removed, changed, freedBytes, mergedBytes } = result;
  const lines = [
    ...removed.map((id) => `${vm}: ${id} is deleted\n`),
    ...changed.map(
      ({ id, parent }) => `${vm}: ${id} ${parent ? `now stands on ${parent}` : 'is a full now'}\n`,
    ),
    `${formatBytes(freedBytes)} deleted, up to ${formatBytes(mergedBytes)} of it merged into others\n`,
  ];
  await shell.output.result({ json: result, text: lines.join('') });
}
