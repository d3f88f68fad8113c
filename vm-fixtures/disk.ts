/** Disks of the fixture VMs: how their images are made and how QEMU is told of them. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { execa } from 'execa';

export type Attach =
  | 'virtio-blk'
  | 'virtio-scsi'
  | 'ahci'
  | 'nvme'
  /** `-drive if=virtio` without any id: node and device names are generated and change at every start */
  | 'nameless'
  | 'cdrom';

export interface DiskSpec {
  /** letters, digits, dashes, at most 20: the device's id and serial number, the node's name, the image's name */
  readonly name: string;
  /** a multiple of 64 KiB */
  readonly sizeBytes: number;
  /** default qcow2 */
  readonly format?: 'qcow2' | 'raw';
  /** default virtio-blk */
  readonly attach?: Attach;
  /** the image is an overlay: the lower half of the disk holds 0xb0 in a backing image of its own */
  readonly withBacking?: boolean;
  /** virtio-blk and virtio-scsi */
  readonly iothread?: boolean;
  /** a throttle node above the format node (named): bytes per second, 0 for no limit */
  readonly throttle?: number;
  readonly readOnly?: boolean;
  /** default true: the guest's discards reach the file */
  readonly discard?: boolean;
}

export interface FixtureDisk extends DiskSpec {
  readonly attach: Attach;
  /** what QEMU opens at its next start; an external snapshot does not change it, `restart({images})` does */
  image: string;
  /** of that image */
  format: 'qcow2' | 'raw';
  /** the device as `query-block` calls it; `qemu-io -d` takes it */
  qdev: string;
}

/** Where the data of `withBacking` comes from. */
export const BACKING_PATTERN = 0xb0;

/** Makes the images that do not exist yet. */
export async function createDisk(bin: string, dir: string, spec: DiskSpec): Promise<FixtureDisk> {
  const { name, sizeBytes, format = 'qcow2', attach = 'virtio-blk' } = spec;
  const image = join(dir, `${name}.${format}`);
  const qemuImg = join(bin, 'qemu-img');
  if (!existsSync(image)) {
    let backing: string[] = [];
    if (spec.withBacking) {
      const base = join(dir, `${name}.base.qcow2`);
      const half = Math.floor(sizeBytes / 2 / 65536) * 65536;
      await execa(qemuImg, ['create', '-q', '-f', 'qcow2', base, `${sizeBytes}`]);
      await execa(join(bin, 'qemu-io'), ['-f', 'qcow2', '-c', `write -P ${BACKING_PATTERN} 0 ${half}`, base]);
      backing = ['-b', base, '-F', 'qcow2'];
    }
    await execa(qemuImg, ['create', '-q', '-f', format, ...backing, image, `${sizeBytes}`]);
  }
  return { ...spec, format, attach, image, qdev: '' };
}

/** The arguments that give a VM its disks. */
export function diskArgs(disks: readonly FixtureDisk[]): string[] {
  let ideBus = 0;
  return disks.flatMap((disk) => {
    if (disk.attach === 'nameless') return ['-drive', driveOption(disk)];
    return [...nodeArgs(disk), ...deviceArgs(disk, () => ideBus++)];
  });
}

function nodeArgs(disk: FixtureDisk): string[] {
  const { name, throttle } = disk;
  const args = ['-blockdev', JSON.stringify(formatNode(disk))];
  if (throttle !== undefined) {
    const group = `limit-${name}`;
    const node = { driver: 'throttle', 'node-name': topNode(disk), 'throttle-group': group, file: name };
    args.push('-object', `throttle-group,id=${group},x-bps-total=${throttle}`);
    args.push('-blockdev', JSON.stringify({ ...node, ...accessOptions(disk) }));
  }
  return args;
}

/** Also what `blockdev-add` takes for a disk that is plugged in later. */
export function formatNode(disk: FixtureDisk): object {
  const access = accessOptions(disk);
  const file = { driver: 'file', filename: disk.image, ...access };
  return { driver: disk.format, 'node-name': disk.name, ...access, file };
}

/** Every node on the way has to be told to let discards through. */
function accessOptions({ readOnly, attach, discard = true }: FixtureDisk): object {
  return { 'read-only': readOnly === true || attach === 'cdrom', discard: discard ? 'unmap' : 'ignore' };
}

function topNode({ name, throttle }: DiskSpec): string {
  return throttle === undefined ? name : `${name}-limited`;
}

function deviceArgs(disk: FixtureDisk, nextIdeBus: () => number): string[] {
  const { name, attach, iothread } = disk;
  const drive = `drive=${topNode(disk)},id=${name},serial=${name}`;
  const thread = iothread ? `,iothread=thread-${name}` : '';
  const args = iothread ? ['-object', `iothread,id=thread-${name}`] : [];
  switch (attach) {
    case 'virtio-blk':
      return [...args, '-device', `virtio-blk-pci,${drive}${thread}`];
    case 'virtio-scsi':
      args.push('-device', `virtio-scsi-pci,id=scsi-${name}${thread}`);
      return [...args, '-device', `scsi-hd,bus=scsi-${name}.0,${drive}`];
    case 'ahci':
      return ['-device', `ide-hd,bus=ide.${nextIdeBus()},${drive}`];
    case 'cdrom':
      return ['-device', `ide-cd,bus=ide.${nextIdeBus()},${drive}`];
    case 'nvme':
      return ['-device', `nvme,${drive}`];
    case 'nameless':
      return [];
  }
}

function driveOption({ image, format, readOnly, discard = true }: FixtureDisk): string {
  const options = [`file=${escapeComma(image)}`, `format=${format}`, 'if=virtio'];
  if (readOnly) options.push('readonly=on');
  if (discard) options.push('discard=unmap');
  return options.join(',');
}

/** QEMU's option parser takes a doubled comma for one. */
export function escapeComma(text: string): string {
  return text.replaceAll(',', ',,');
}
