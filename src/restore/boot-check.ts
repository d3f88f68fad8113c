/**
 * Whether a guest comes up from a restore point. It runs on throwaway overlays in local scratch space: nothing of it
 * reaches the vault, whose images are opened for reading alone, and only after they were looked at. The caller has
 * registered as a reader.
 */
import { randomBytes } from 'node:crypto';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { throwIfAborted } from '../base/deadline.ts';
import type { DiskName } from '../base/ids.ts';
import type { Accelerator } from '../image/accelerator.ts';
import { createImage } from '../image/qemu-img.ts';
import type { QemuTools } from '../image/tools.ts';
import { type Answer, type Machine, TrialVm } from '../image/trial-vm.ts';
import { makeOwnFolder, sweepOwnFolders } from './own-folder.ts';

export interface BootWish extends Machine {
  /** What the guest must say on its serial console; without it the guest agent has to answer. */
  readonly line?: RegExp | undefined;
  readonly timeoutMs: number;
}

/** What this needs on this host. */
export interface BootEngine {
  readonly tools: QemuTools;
  /** For sockets: a short path. */
  readonly runtimeDir: string;
  readonly scratchDir: string;
}

export interface BootDisk {
  readonly name: DiskName;
  /** An image of the vault that was looked at, with all that it stands on. */
  readonly source: string;
  readonly virtualSizeBytes: number;
}

export interface BootReport {
  readonly answer: Answer['from'];
  readonly what: string;
  readonly tookMs: number;
  readonly accelerator: Accelerator;
  readonly serialLog: string;
  /** PNG. */
  readonly screen: Buffer | null;
}

const FOLDER = /^qv-boot-[0-9a-f]{8}$/;

/**
 * That nobody answers is a result.
 * @throws boot-failed when the VM cannot be started, scratch-full, path-too-long, image-tool-failed, cancelled; nothing
 *   is left then
 */
export async function tryBoot(
  { tools, runtimeDir, scratchDir }: BootEngine,
  disks: readonly BootDisk[],
  { line, timeoutMs, ...machine }: BootWish,
  signal?: AbortSignal,
): Promise<BootReport> {
  for (const name of await sweepOwnFolders(scratchDir, FOLDER)) await remove(join(runtimeDir, name));
  throwIfAborted(signal);
  const name = `qv-boot-${randomBytes(4).toString('hex')}`;
  const [dir, socketDir] = [join(scratchDir, name), join(runtimeDir, name)];
  let vm: TrialVm | undefined;
  try {
    for (const folder of [dir, socketDir]) await makeOwnFolder(folder);
    // One after the other: where one fails or is cancelled, no other is left running.
    const images = [];
    for (const disk of disks) images.push(await overlay(tools, dir, disk, signal));
    const began = performance.now();
    vm = await TrialVm.start({ tools, dir, socketDir, disks: images, ...machine, signal });
    const { from, what } = await vm.answer({ line, timeoutMs, signal });
    const tookMs = Math.round(performance.now() - began);
    const screen = await vm.screenshot();
    return { answer: from, what, tookMs, accelerator: vm.accelerator, serialLog: vm.log, screen };
  } finally {
    await vm?.end();
    for (const folder of [dir, socketDir]) await remove(folder);
  }
}

async function overlay(
  tools: QemuTools,
  dir: string,
  { name, source, virtualSizeBytes }: BootDisk,
  signal: AbortSignal | undefined,
): Promise<{ name: DiskName; path: string }> {
  const path = join(dir, `${name}.qcow2`);
  const backing = { link: source, format: 'qcow2' };
  await createImage(tools, { path, format: 'qcow2', sizeBytes: virtualSizeBytes, backing }, { signal });
  return { name, path };
}

async function remove(folder: string): Promise<void> {
  await rm(folder, { recursive: true, force: true });
}
