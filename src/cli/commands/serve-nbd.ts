import { Argument, type Command, Option } from 'commander';
import type { VmName } from '../../base/ids.ts';
import { formatBytes } from '../../base/units.ts';
import type { Result } from '../../operations/index.ts';
import { socketOf, vaultOption, vmArgument } from '../options.ts';
import type { Shell } from '../shell.ts';
import { table } from '../table.ts';

interface ServeOptions {
  readonly listen?: string;
}

export function addServeNbd(program: Command, shell: Shell): void {
  program
    .command('serve-nbd')
    .description('show the disks of a restore point over NBD, read-only, until Ctrl-C')
    .addArgument(vmArgument())
    .addArgument(new Argument('[point]', "its id, a unique beginning of it, or 'latest'").default('latest'))
    .addOption(vaultOption())
    .addOption(
      new Option('--listen <path>', 'where to serve; default: in a folder of its own').argParser(socketOf),
    )
    .action(async (vm: VmName, point: string, { listen: socket }: ServeOptions, command: Command) => {
      let said: Promise<void> | undefined;
      const onReady = ({ warnings, ...serving }: Result<'serve'>) => {
        said = shell.output.result({ json: { serving, warnings }, text: servedText(serving), warnings });
      };
      await shell.perform(
        command,
        'serve',
        { vm, point, socket },
        { doing: `serving ${vm} over NBD`, onReady },
      );
      await said;
    });
}

export function servedText({ vm, point, exports }: Omit<Result<'serve'>, 'warnings'>): string {
  const rows = exports.map(({ disk, virtualSizeBytes, uri }) => [disk, formatBytes(virtualSizeBytes), uri]);
  return `${vm} at ${point}, until Ctrl-C\n${table(['DISK', 'SIZE', 'NBD'], rows, ['SIZE'])}`;
}
