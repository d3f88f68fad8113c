import type { Command } from 'commander';
import type { VmName } from '../../base/ids.ts';
import { protectPoint } from '../../upkeep/protect.ts';
import { pointArgument, vaultOption, vmArgument, waitOption } from '../options.ts';
import { pointJson } from '../point-json.ts';
import type { Shell } from '../shell.ts';

interface ProtectOptions {
  readonly vault: string;
  readonly off?: boolean;
  readonly wait: number;
}

export function addProtect(program: Command, shell: Shell): void {
  program
    .command('protect')
    .description('let neither prune nor delete take a restore point')
    .addArgument(vmArgument())
    .addArgument(pointArgument())
    .addOption(vaultOption().makeOptionMandatory())
    .option('--off', 'let them again')
    .addOption(waitOption())
    .action(async (vm: VmName, point: string, options: ProtectOptions, command: Command) => {
      const { vault: path, off = false, wait } = options;
      const vault = await shell.openVault(path, command);
      const { signal } = shell.interruption;
      const changed = await protectPoint(vault, { vm, point, protect: !off, waitMs: wait * 1000, signal });
      await shell.output.result({
        json: { point: pointJson(changed) },
        text: `${vm}: ${changed.id} is ${off ? 'no longer protected' : 'protected'}\n`,
      });
    });
}
