import type { Command } from 'commander';
import type { DiskName, VmName } from '../../base/ids.ts';
import { formatBytes } from '../../base/units.ts';
import type { Result } from '../../operations/index.ts';
import { fullEveryOption, imageOption, qmpOption, vaultOption, vmArgument } from '../options.ts';
import type { Shell } from '../shell.ts';
import { properties, table } from '../table.ts';

interface InspectOptions {
  readonly vault?: string;
  readonly qmp?: string;
  readonly disk?: Map<DiskName, string>;
  readonly fullEvery?: number;
}

export function addInspect(program: Command, shell: Shell): void {
  program
    .command('inspect')
    .description('show the disks of a VM, the health of their bitmaps, and what the next backup will be')
    .addArgument(vmArgument())
    .addOption(vaultOption())
    .addOption(qmpOption())
    .addOption(imageOption())
    .addOption(fullEveryOption())
    .action(async (vm: VmName, options: InspectOptions, command: Command) => {
      const { qmp, disk: images, fullEvery } = options;
      const params = { vm, qmp, ...(images && { images: Object.fromEntries(images) }), fullEvery };
      const found = await shell.perform(command, 'inspect', params, { doing: `the inspection of ${vm}` });
      await shell.output.result({ json: found, text: inspectionText(found), warnings: found.warnings });
    });
}

export function inspectionText({ vm, disks, left, next }: Result<'inspect'>): string {
  const about = properties([
    ['vm', `${vm.name}${vm.uuid && ` (${vm.uuid})`}, ${vm.state}`],
    ['QEMU', vm.qemu],
    ['next backup', next ? `${next.kind} (${next.how}): ${next.why}` : 'name the vault with --vault to know'],
    ...left.map(({ name, why }): [string, string] => ['left out', `${name}: ${why}`]),
    ...disks.flatMap(({ name, warnings }) => warnings.map((text): [string, string] => [name, text])),
  ]);
  const rows = disks.map(({ name, format, sizeBytes, device, bitmap, image }) => [
    name,
    format,
    formatBytes(sizeBytes),
    device,
    bitmap.words,
    image,
  ]);
  return `${about}\n${table(['DISK', 'FORMAT', 'SIZE', 'DEVICE', 'BITMAP', 'IMAGE'], rows, ['SIZE'])}`;
}
