/** The disks of a VM as its operator knows them, and which of them a backup can take. */
import { basename, resolve } from 'node:path';
import { z } from 'zod';
import { type QmpClient, QmpCommandError } from '../../qmp/index.ts';
import { type DiskName, diskName } from '../base/ids.ts';
import type { Bitmap, BlockDevice, BlockGraph, NodeName } from './block-graph.ts';

export interface Disk {
  readonly name: DiskName;
  /** QOM path of the device. */
  readonly device: string;
  /** What the device sees: the data node, or a filter above it. */
  readonly root: NodeName;
  /** The node that holds the image; its bitmaps are the disk's. */
  readonly node: NodeName;
  /** A throttle node stands between device and image. */
  readonly throttled: boolean;
  readonly format: string;
  readonly image: string;
  readonly sizeBytes: number;
  /** On the host, with all backing files: an upper bound of what a snapshot of the disk has to save. */
  readonly allocatedBytes: number;
  /** A bitmap here outlives the QEMU process (qcow2, compat 1.1). */
  readonly keepsBitmaps: boolean;
  readonly internalSnapshots: number;
  readonly bitmaps: readonly Bitmap[];
}

export interface LeftOut {
  readonly name: string;
  readonly why: string;
}

export interface Disks {
  readonly disks: readonly Disk[];
  readonly left: readonly LeftOut[];
}

/**
 * By what a disk is called: the guest's device, or the image, which has its name also on other hosts and while no VM
 * runs from it.
 */
export type DiskNaming = 'device' | 'image';

/** Names are stable over restarts of the VM: the device's id, else the drive's name, else its place on the bus. */
export async function listDisks(
  client: QmpClient,
  graph: BlockGraph,
  { directory, naming }: { readonly directory: string | null; readonly naming: DiskNaming },
): Promise<Disks> {
  const disks: Disk[] = [];
  const left: LeftOut[] = [];
  for (const device of graph.devices) {
    const name = device.id ?? device.driveName ?? (await placeOf(client, device.qomPath));
    const why = whyLeftOut(device);
    if (why !== null) {
      left.push({ name, why });
      continue;
    }
    const { root, qomPath } = device;
    const data = root === null ? null : graph.dataNode(root);
    if (root === null || qomPath === null || data === null) {
      left.push({ name, why: `its block graph below ${root} is not understood` });
      continue;
    }
    disks.push({
      name: diskName(safeName(name)),
      device: qomPath,
      root,
      node: data.name,
      throttled: graph.passesThrough(root, 'throttle'),
      format: data.driver,
      image: absolute(data.filename, directory),
      sizeBytes: data.sizeBytes,
      allocatedBytes: graph.chainAllocatedBytes(data.name),
      keepsBitmaps: data.driver === 'qcow2' && data.compat !== '0.10',
      internalSnapshots: data.snapshots,
      bitmaps: data.bitmaps,
    });
  }
  return { disks: naming === 'image' ? namedByImage(disks) : disks, left };
}

/** The same name in two folders: then the device tells which is which. */
function namedByImage(disks: readonly Disk[]): Disk[] {
  const names = disks.map(({ image }) => imageName(image));
  return disks.map((disk, i) => {
    const name = names[i] ?? disk.name;
    const isAlone = names.indexOf(name) === names.lastIndexOf(name);
    return { ...disk, name: isAlone ? name : diskName(`${name}@${disk.name}`) };
  });
}

/**
 * What an image is called where it lies: a file by its own name, a volume of RBD (`rbd:POOL/NAME:…`) and of DRBD
 * (`/dev/drbd/by-res/NAME/0`; CloudStack puts `cs-` before it) by the volume's.
 */
export function imageName(image: string): DiskName {
  const volume = /^rbd:[^/]+\/([^:@]+)/.exec(image) ?? /^\/dev\/drbd\/by-res\/(?:cs-)?([^/]+)\//.exec(image);
  return diskName(safeName(volume?.[1] ?? basename(image)));
}

function whyLeftOut(device: BlockDevice): string | null {
  if (device.root === null) return 'no medium';
  if (device.qomPath === null) return 'no device of the guest is attached to it';
  if (device.qomPath.startsWith('/machine/system.flash')) return 'firmware flash';
  if (device.removable) return 'removable medium';
  if (device.readOnly) return 'read-only';
  return null;
}

/** QEMU tells a file as it was named on its command line. Other than files (`json:…`, `nbd:…`) are left as they are. */
function absolute(image: string, directory: string | null): string {
  return directory === null || /^[^/]*:/.test(image) ? image : resolve(directory, image);
}

/** A name from outside becomes part of a file name: what cannot stand there becomes a dash. */
function safeName(name: string): string {
  return name.replace(/[^A-Za-z0-9._+@-]/g, '-').replace(/^[.-]+/, '') || 'disk';
}

/** Where an unnamed device sits: the name of its bus and its address there (`scsi0.0-0-0`, `pcie.0-04.0`). */
async function placeOf(client: QmpClient, path: string | null): Promise<string> {
  if (path === null) return 'detached';
  const owner = path.replace(/\/virtio-backend$/, '');
  const bus = await property(client, owner, 'parent_bus');
  const busName = bus?.split('/').at(-1) ?? 'bus';
  for (const address of [['scsi-id', 'lun'], ['unit'], ['legacy-addr'], ['addr']]) {
    const parts = await Promise.all(address.map((name) => property(client, owner, name)));
    if (parts.every((part) => part !== null)) return [busName, ...parts].join('-');
  }
  return busName;
}

/** Whether a device's I/O is done by a thread of its own: its `iothread`, or that of the controller it hangs on. */
export async function hasIothread(client: QmpClient, device: string): Promise<boolean> {
  const bus = await property(client, device, 'parent_bus');
  const controllers = bus === null ? [] : [bus.replace(/\/[^/]+$/, '')];
  for (const path of [device, ...controllers]) {
    const thread = await property(client, path, 'iothread');
    if (thread !== null && thread !== '') return true;
  }
  return false;
}

async function property(client: QmpClient, path: string, name: string): Promise<string | null> {
  try {
    return z.coerce.string().parse(await client.execute('qom-get', { path, property: name }));
  } catch (error) {
    // A device without this property: not of the kind of bus that is being asked for.
    if (error instanceof QmpCommandError) return null;
    throw error;
  }
}
