import { Argument, type Command } from 'commander';
import { EXIT } from '../../base/errors.ts';
import type { VmName } from '../../base/ids.ts';
import type { Result } from '../../operations/index.ts';
import { countOf, vaultOption, vmArgument } from '../options.ts';
import type { Shell } from '../shell.ts';

interface VerifyOptions {
  readonly vault: string;
  readonly deep?: boolean;
  readonly oldest?: number;
}

export function addVerify(program: Command, shell: Shell): void {
  program
    .command('verify')
    .description('prove that restore points can be restored')
    .addArgument(vmArgument('[vm]'))
    .addArgument(new Argument('[point]', "its id, a unique beginning of it, or 'latest'; else all"))
    .addOption(vaultOption().makeOptionMandatory())
    .option('--deep', 'read every byte: digests, and each disk through its chain')
    .option(
      '--oldest <n>',
      'only so many points: those not looked at so closely for the longest time',
      countOf,
    )
    .action(async (vm, point, options: VerifyOptions, command: Command) => {
      await run(shell, command, { vm, point }, options);
    });
}

async function run(
  shell: Shell,
  command: Command,
  { vm, point }: { vm: VmName | undefined; point: string | undefined },
  { deep, oldest }: VerifyOptions,
): Promise<void> {
  const { output } = shell;
  const { checked, damaged, warnings } = await shell.perform(
    command,
    'verify',
    { vm, point, level: deep ? 'deep' : 'quick', oldest },
    { doing: 'the verification' },
  );
  if (damaged.length > 0) output.exitCode = EXIT.damage;
  await output.result({
    json: { checked, damaged, warnings },
    text: textOf({ checked, damaged }),
    warnings,
  });
}

function textOf({ checked, damaged }: Omit<Result<'verify'>, 'warnings'>): string {
  const lines = damaged.map(({ vm, point, disk, what, affects }) => {
    const others = affects.filter((id) => id !== point);
    const lost = others.length > 0 ? `; so ${others.join(', ')} cannot be restored either` : '';
    return `${vm}: ${point}${disk ? `, disk ${disk}` : ''}: ${what}${lost}\n`;
  });
  return `${lines.join('')}${checked} points checked, ${damaged.length} damages found\n`;
}
