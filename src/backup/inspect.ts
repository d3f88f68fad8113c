/** What a VM is, how its disks and their bitmaps are, and what the next backup will be. Changes nothing. */

import type { DiskName, VmName } from '../base/ids.ts';
import { formatBytes } from '../base/units.ts';
import type { Vault } from '../vault/vault.ts';
import type { VmFolder } from '../vault/vm-folder.ts';
import type { Disk, Disks, LeftOut } from '../vm/disks.ts';
import { findRuns } from '../vm/unwind.ts';
import { Vm } from '../vm/vm.ts';
import { capabilityMemory } from './capability-memory.ts';
import type { Engine } from './engine.ts';
import { findVm, type StoppedVm } from './find-vm.ts';
import type { BitmapHealth, Plan } from './plan.ts';
import type { StoppedImages } from './stopped-images.ts';
import { lookAtImages } from './stopped-look.ts';
import { surveyStopped } from './stopped-survey.ts';
import { type Survey, survey } from './survey.ts';

export interface InspectedDisk {
  readonly name: string;
  readonly format: string;
  readonly image: string;
  readonly sizeBytes: number;
  readonly device: string;
  readonly bitmap: { readonly state: BitmapHealth['state'] | 'unknown'; readonly words: string };
  readonly warnings: readonly string[];
}

export interface Inspection {
  readonly vm: {
    readonly name: VmName;
    readonly uuid: string;
    readonly qemu: string;
    readonly state: string;
  };
  readonly disks: readonly InspectedDisk[];
  readonly left: readonly LeftOut[];
  /** Null when no vault was named. */
  readonly next: Pick<Plan, 'kind' | 'how' | 'why'> | null;
  readonly warnings: readonly string[];
}

export interface InspectRequest {
  readonly vm: VmName;
  readonly qmp?: string | undefined;
  /** Of a stopped VM, as in `BackupRequest`. */
  readonly images?: ReadonlyMap<DiskName, string> | undefined;
  readonly fullEvery: number;
}

/** @throws vm-unreachable, vm-busy, vm-uuid, vm-unfit, and what reading the vault throws */
export async function inspectVm(
  engine: Pick<Engine, 'stateDir' | 'runtimeDir' | 'scratchDir' | 'tools' | 'version' | 'log'>,
  vault: Vault | null,
  request: InspectRequest,
  { signal }: { signal?: AbortSignal | undefined } = {},
): Promise<Inspection> {
  const folder = vault?.vm(request.vm) ?? null;
  const found = await findVm(folder, request, { signal, memory: capabilityMemory(engine) });
  if (found instanceof Vm) {
    await using vm = found;
    return await inspectRunning(vm, folder, request);
  }
  return lookAtImages(engine, found, signal, (images, client) =>
    inspectStopped(found, images, client, folder, request),
  );
}

async function inspectRunning(
  vm: Vm,
  folder: VmFolder | null,
  { vm: name, fullEvery }: InspectRequest,
): Promise<Inspection> {
  const state = await vm.status();
  const about = { name, uuid: vm.uuid, qemu: vm.qemuVersion, state };
  const runs = [...(await findRuns(vm.client)).keys()];
  const warnings = runs.map(
    (run) => `run ${run} is at work in this VM, or left something behind; the next backup cleans it up`,
  );
  if (/^[0-]+$/.test(vm.uuid)) {
    warnings.push(
      'this VM has no UUID, so another one under its name could not be told from it: start QEMU with -uuid',
    );
  }
  if (folder === null) return { vm: about, ...withoutVault(await vm.disks()), warnings };
  const found = await survey(vm, folder, { fullEvery });
  return { vm: about, ...surveyed(found), warnings: [...warnings, ...found.warnings] };
}

async function inspectStopped(
  stopped: StoppedVm,
  images: StoppedImages,
  client: Vm['client'],
  folder: VmFolder | null,
  { vm: name, fullEvery }: InspectRequest,
): Promise<Inspection> {
  const vm = { name, uuid: stopped.uuid, qemu: client.version.text, state: 'stopped' };
  if (folder === null) {
    return { vm, ...withoutVault({ disks: await images.open(), left: [] }), warnings: [] };
  }
  const found = await surveyStopped({ folder, stopped, client, images }, { fullEvery });
  return { vm, ...surveyed(found), warnings: found.warnings };
}

function withoutVault({ disks, left }: Disks) {
  return { disks: disks.map((disk) => inspected(disk, null)), left, next: null };
}

function surveyed({ disks, left, plan: { kind, how, why } }: Survey) {
  return { disks: disks.map(({ disk, bitmap }) => inspected(disk, bitmap)), left, next: { kind, how, why } };
}

function inspected(disk: Disk, health: BitmapHealth | null): InspectedDisk {
  const { name, format, image, sizeBytes, device } = disk;
  const snapshots = disk.internalSnapshots;
  return {
    name,
    format,
    image,
    sizeBytes,
    device,
    bitmap:
      health === null
        ? { state: 'unknown', words: ownBitmaps(disk) }
        : { state: health.state, words: inWords(disk, health) },
    warnings: [
      ...(snapshots > 0
        ? [
            `it has ${snapshots} internal snapshot${snapshots === 1 ? '' : 's'}: while a bitmap is on the disk QEMU refuses loadvm and qemu-img snapshot -a`,
          ]
        : []),
      ...(disk.keepsBitmaps
        ? []
        : [`a ${format} image keeps no bitmap: after a restart of the VM the whole disk is read again`]),
    ],
  };
}

function inWords(disk: Disk, health: BitmapHealth): string {
  if (health.state === 'lost') return health.why;
  const bytes = disk.bitmaps.find(({ name }) => name === health.name)?.countBytes ?? 0;
  return `${formatBytes(bytes)} changed since ${health.point.id}`;
}

function ownBitmaps({ bitmaps }: Disk): string {
  return bitmaps.length === 0 ? 'no bitmaps' : `bitmaps: ${bitmaps.map(({ name }) => name).join(', ')}`;
}
