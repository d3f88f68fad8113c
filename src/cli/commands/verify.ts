import { Argument, type Command, Option } from 'commander';
import { EXIT } from '../../base/errors.ts';
import type { VmName } from '../../base/ids.ts';
import { parseSize } from '../../base/units.ts';
import type { Params, Result } from '../../operations/index.ts';
import { countOf, folderOf, moreWords, vaultOption, vmArgument } from '../options.ts';
import type { Shell } from '../shell.ts';

interface VerifyOptions {
  readonly deep?: boolean;
  readonly boot?: boolean;
  readonly bootLine?: string;
  readonly bootTimeout?: number;
  readonly bootMemory?: number;
  readonly bootBus?: 'virtio' | 'scsi' | 'sata' | 'nvme';
  readonly bootArg?: string[];
  readonly oldest?: number;
}

export function addVerify(program: Command, shell: Shell): void {
  program
    .command('verify')
    .description('prove that restore points can be restored')
    .addArgument(vmArgument('[vm]'))
    .addArgument(new Argument('[point]', "its id, a unique beginning of it, or 'latest'; else all"))
    .addOption(vaultOption())
    .option('--deep', 'read every byte: digests, and each disk through its chain')
    .option('--boot', 'boot a guest from each too, without a network, on copies that are thrown away')
    .addOption(
      new Option(
        '--boot-line <regex>',
        'what it must say on its serial console; else its guest agent answers',
      ).implies({ boot: true }),
    )
    .addOption(
      new Option('--boot-timeout <seconds>', 'how long that is waited for (default: 300)')
        .argParser(countOf)
        .implies({ boot: true }),
    )
    .addOption(
      new Option('--boot-memory <size>', 'of that guest (default: 1GiB)')
        .argParser((text) => parseSize(text))
        .implies({ boot: true }),
    )
    .addOption(
      new Option('--boot-bus <bus>', 'what its disks hang on (default: virtio)')
        .choices(['virtio', 'scsi', 'sata', 'nvme'])
        .implies({ boot: true }),
    )
    .addOption(
      new Option(
        '--boot-arg <arg>',
        'one more argument of QEMU (can be repeated): -bios and /path/to/OVMF.fd',
      )
        .argParser(moreWords)
        .implies({ boot: true }),
    )
    .option(
      '--oldest <n>',
      'only so many points: those not looked at so closely for the longest time',
      countOf,
    )
    .addOption(
      new Option('--scratch <dir>', 'for the copies that a guest is booted from').argParser(folderOf),
    )
    .action(async (vm, point, options: VerifyOptions, command: Command) => {
      await run(shell, command, { vm, point }, options);
    });
}

async function run(
  shell: Shell,
  command: Command,
  { vm, point }: { vm: VmName | undefined; point: string | undefined },
  options: VerifyOptions,
): Promise<void> {
  const { output } = shell;
  const { deep, oldest } = options;
  using bars = await output.progressBars();
  const result = await shell.perform(
    command,
    'verify',
    { vm, point, level: deep ? 'deep' : 'quick', boot: bootOf(options), oldest },
    { doing: 'the verification', onProgress: (now) => bars?.showWork(now) },
  );
  bars?.stop();
  const { damaged, booted, warnings } = result;
  if (damaged.length > 0 || booted.some(({ answer }) => answer === null)) output.exitCode = EXIT.damage;
  await output.result({ json: result, text: textOf(result), warnings });
}

function bootOf(options: VerifyOptions): Params<'verify'>['boot'] {
  const { boot, bootLine: line, bootTimeout, bootMemory: memoryBytes, bootBus: bus, bootArg: args } = options;
  if (!boot) return undefined;
  return { line, timeoutMs: bootTimeout && bootTimeout * 1000, memoryBytes, bus, args };
}

function textOf({ checked, damaged, booted }: Result<'verify'>): string {
  const damages = damaged.map(({ vm, point, disk, what, affects }) => {
    const others = affects.filter((id) => id !== point);
    const lost = others.length > 0 ? `; so ${others.join(', ')} cannot be restored either` : '';
    return `${vm}: ${point}${disk ? `, disk ${disk}` : ''}: ${what}${lost}\n`;
  });
  const boots = booted.map(({ vm, point, answer, what, tookMs, accelerator }) => {
    const seconds = `${(tookMs / 1000).toFixed(1)} s with ${accelerator}`;
    return answer === null
      ? `${vm}: ${point} did not boot: ${what}. See boot.log and boot.png beside its manifest.\n`
      : `${vm}: ${point} boots: ${what} (${seconds})\n`;
  });
  const up = booted.filter(({ answer }) => answer !== null).length;
  const sum = `${checked} points checked, ${damaged.length} damages found`;
  return [...damages, ...boots, sum, booted.length > 0 ? `, ${up} of ${booted.length} booted\n` : '\n'].join(
    '',
  );
}
