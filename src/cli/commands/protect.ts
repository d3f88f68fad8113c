import type { Command } from 'commander';
import type { VmName } from '../../base/ids.ts';
import { pointArgument, vaultOption, vmArgument, waitOption } from '../options.ts';
import type { Shell } from '../shell.ts';

interface ProtectOptions {
  readonly off?: boolean;
  readonly wait: number;
}

export function addProtect(program: Command, shell: Shell): void {
  program
    .command('protect')
    .description('let neither prune nor delete take a restore point')
    .addArgument(vmArgument())
    .addArgument(pointArgument())
    .addOption(vaultOption())
    .option('--off', 'let them again')
    .addOption(waitOption())
    .action(async (vm: VmName, point: string, options: ProtectOptions, command: Command) => {
      const { off = false, wait } = options;
      const params = { vm, point, protect: !off, waitMs: wait * 1000 };
      const changed = await shell.perform(command, 'protect', params, { doing: `protecting ${point}` });
      await shell.output.result({
        json: changed,
        text: `${vm}: ${changed.point.id} is ${off ? 'no longer protected' : 'protected'}\n`,
      });
    });
}
