import { type Command, Option } from 'commander';
import { type DiskName, type PointId, pointId, type VmName } from '../../base/ids.ts';
import { parseRate } from '../../base/units.ts';
import {
  countOf,
  folderOf,
  fullEveryOption,
  imageOption,
  moreDisks,
  qmpOption,
  socketOf,
  vaultOption,
  vmArgument,
} from '../options.ts';
import { pointSummary } from '../point-text.ts';
import type { Shell } from '../shell.ts';

interface BackupOptions {
  readonly vault?: string;
  readonly init?: boolean;
  readonly newVault?: boolean;
  readonly qmp?: string;
  readonly disk?: Map<DiskName, string>;
  readonly agent?: string;
  readonly requireQuiesce?: boolean;
  readonly full?: boolean;
  readonly fullEvery?: number;
  readonly exclude?: DiskName[];
  readonly scratch?: string;
  readonly bandwidth?: number;
  readonly point?: PointId;
  readonly stallMs?: number;
  readonly withoutSnapshot?: boolean;
}

export function addBackup(program: Command, shell: Shell): void {
  program
    .command('backup')
    .description('make a restore point of a VM: through its QMP socket or, if it is stopped, from its images')
    .addArgument(vmArgument())
    .addOption(vaultOption())
    .option('--init', 'make the vault when it is missing')
    .option('--new-vault', 'with --init: also where another vault is known, which is then given up')
    .addOption(qmpOption())
    .addOption(imageOption())
    .option('--agent <sock>', 'the guest agent, which freezes the filesystems for the moment', socketOf)
    .option('--require-quiesce', 'fail when the filesystems cannot be frozen')
    .option('--full', 'begin a new chain')
    .addOption(fullEveryOption())
    .option('--exclude <disk>', 'leave a disk out (can be repeated)', moreDisks)
    .option('--scratch <dir>', "where the guest's old data are kept while the backup reads", folderOf)
    .option('--bandwidth <rate>', 'over all disks, such as 20MiB/s', (text) => parseRate(text))
    .option('--point <id>', 'the id of the new point', (text) => pointId(text))
    .addOption(new Option('--stall-ms <n>').argParser(countOf).hideHelp())
    .addOption(new Option('--without-snapshot').hideHelp())
    .action(async (vm: VmName, options: BackupOptions, command: Command) => {
      await backup(shell, command, vm, options);
    });
}

async function backup(shell: Shell, command: Command, vm: VmName, options: BackupOptions): Promise<void> {
  const { vault: _vault, scratch: _scratch, requireQuiesce, stallMs, disk: images, ...wishes } = options;
  const { output, interruption } = shell;
  using bars = await output.progressBars();
  const doing = `the backup of ${vm}`;
  const { point, warnings } = await shell.perform(
    command,
    'backup',
    {
      ...wishes,
      vm,
      ...(images && { images: Object.fromEntries(images) }),
      quiesce: requireQuiesce ? 'required' : 'auto',
      noProgressMs: stallMs,
    },
    {
      doing,
      onProgress: ({ phase, disks }) => {
        interruption.doing(`${doing} (${phase})`);
        // The other phases count nothing: they would put finished bars back to 0.
        if (phase === 'copying') bars?.show(disks);
        if (phase === 'digesting') bars?.show(disks, 'reading back ');
      },
    },
  );
  bars?.stop();
  await output.result({ json: { point, warnings }, text: pointSummary(point), warnings });
}
