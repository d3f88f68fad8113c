import { type Command, Option } from 'commander';
import type { VmName } from '../../base/ids.ts';
import { parseRate } from '../../base/units.ts';
import { qmpOption, vaultOption, vmArgument } from '../options.ts';
import type { Shell } from '../shell.ts';
import { table } from '../table.ts';

interface FillOptions {
  readonly vault: string;
  readonly qmp: string;
  readonly bandwidth?: number;
}

export function addFill(program: Command, shell: Shell): void {
  program
    .command('fill')
    .description('copy what a VM runs on since its instant restore from the vault, while it runs')
    .addArgument(vmArgument())
    .addOption(vaultOption().makeOptionMandatory())
    .addOption(qmpOption().makeOptionMandatory())
    .addOption(
      new Option('--bandwidth <rate>', 'such as 20MiB/s').argParser((text: string) => parseRate(text)),
    )
    .action(async (vm: VmName, { qmp, bandwidth }: FillOptions, command: Command) => {
      using bars = await shell.output.progressBars();
      const result = await shell.perform(
        command,
        'fill',
        { vm, qmp, bandwidth },
        { doing: `filling ${vm}`, onProgress: ({ disks }) => bars?.show(disks) },
      );
      bars?.stop();
      const rows = [
        ...result.filled.map(({ disk, path }) => [disk, path, 'filled, needs the vault no more']),
        ...result.left.map(({ disk, path, host }) => [disk, path, `not of this VM (on ${host})`]),
      ];
      await shell.output.result({ json: result, text: table(['DISK', 'IMAGE', 'WHAT'], rows) });
    });
}
