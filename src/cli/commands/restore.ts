import { Argument, type Command, Option } from 'commander';
import { QmpvaultError } from '../../base/errors.ts';
import type { DiskName, VmName } from '../../base/ids.ts';
import { formatBytes } from '../../base/units.ts';
import { folderOf, moreDiskPaths, qmpOption, vaultOption, vmArgument } from '../options.ts';
import type { Shell } from '../shell.ts';
import { table } from '../table.ts';

interface RestoreOptions {
  readonly to?: string;
  readonly disk?: Map<DiskName, string>;
  readonly format: 'qcow2' | 'raw';
  readonly instant?: boolean;
  readonly inPlace?: boolean;
  readonly keepOld?: boolean;
  readonly qmp?: string;
  readonly force?: boolean;
}

const FILL = 'They stand on the vault: do not move it, and copy with `qmpvault fill` once the VM runs.\n';

export function addRestore(program: Command, shell: Shell): void {
  program
    .command('restore')
    .description('bring the disks of a restore point back')
    .addArgument(vmArgument())
    .addArgument(new Argument('[point]', "its id, a unique beginning of it, or 'latest'").default('latest'))
    .addOption(vaultOption())
    .addOption(
      new Option('--to <dir>', 'all disks into this folder, as <disk>.<format>')
        .argParser(folderOf)
        .conflicts('disk'),
    )
    .option('--disk <disk=target>', 'one disk to a file or block device (can be repeated)', moreDiskPaths)
    .addOption(
      new Option('--format <format>', 'of what is written').choices(['qcow2', 'raw']).default('qcow2'),
    )
    .option('--instant', 'copy nothing yet: the disks stand on the vault until they are filled')
    .addOption(
      new Option('--in-place', "in the place of the stopped VM's own images").conflicts([
        'to',
        'disk',
        'instant',
        'format',
      ]),
    )
    .option('--keep-old', 'with --in-place: keep what was there, under another name')
    .addOption(qmpOption())
    .option('--force', 'overwrite what is there')
    .action(async (vm: VmName, point: string, options: RestoreOptions, command: Command) => {
      await restore(shell, command, vm, point, options);
    });
}

async function restore(
  shell: Shell,
  command: Command,
  vm: VmName,
  point: string,
  options: RestoreOptions,
): Promise<void> {
  const { to, disk: disks, format, instant, inPlace, keepOld, qmp, force } = options;
  if (to === undefined && disks === undefined && !inPlace) {
    throw new QmpvaultError(
      'usage',
      'where to? Name a folder with --to DIR, targets with --disk DISK=TARGET, or the own images of the VM with --in-place',
    );
  }
  using bars = await shell.output.progressBars();
  const { restored, warnings, ...more } = await shell.perform(
    command,
    'restore',
    {
      ...{ vm, point, to, format, instant, inPlace, keepOld, qmp, force },
      ...(disks && { disks: Object.fromEntries(disks) }),
    },
    { doing: `the restore of ${vm}`, onProgress: ({ disks }) => bars?.show(disks) },
  );
  bars?.stop();
  const rows = restored.map(({ disk, path, virtualSizeBytes }) => [
    disk,
    formatBytes(virtualSizeBytes),
    path,
  ]);
  const kept = (more.kept ?? []).map((path) => `kept: ${path}\n`).join('');
  await shell.output.result({
    json: { restored, ...more, warnings },
    text: `${table(['DISK', 'SIZE', 'RESTORED TO'], rows, ['SIZE'])}${kept}${instant ? FILL : ''}`,
    warnings,
  });
}
