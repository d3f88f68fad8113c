/** What a VM is, how its disks and their bitmaps are, and what the next backup will be. Changes nothing. */

import type { VmName } from '../base/ids.ts';
import { formatBytes } from '../base/units.ts';
import type { Vault } from '../vault/vault.ts';
import type { Disk, LeftOut } from '../vm/disks.ts';
import { findRuns } from '../vm/unwind.ts';
import { Vm } from '../vm/vm.ts';
import type { BitmapHealth, Plan } from './plan.ts';
import { survey } from './survey.ts';

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
  readonly qmp: string;
  readonly fullEvery: number;
}

/** @throws vm-unreachable, vm-busy, vm-uuid, vm-unfit, and what reading the vault throws */
export async function inspectVm(
  vault: Vault | null,
  { vm: name, qmp, fullEvery }: InspectRequest,
  { signal }: { signal?: AbortSignal | undefined } = {},
): Promise<Inspection> {
  await using vm = await Vm.connect(qmp, { signal });
  const state = await vm.status();
  const about = { name, uuid: vm.uuid, qemu: vm.qemuVersion, state };
  const runs = [...(await findRuns(vm.client)).keys()];
  const warnings = runs.map(
    (run) => `run ${run} is at work in this VM, or left something behind; the next backup cleans it up`,
  );
  if (vault === null) {
    const { disks, left } = await vm.disks();
    return { vm: about, disks: disks.map((disk) => inspected(disk, null)), left, next: null, warnings };
  }
  const { disks, left, plan, warnings: more } = await survey(vm, vault.vm(name), { fullEvery });
  const { kind, how, why } = plan;
  return {
    vm: about,
    disks: disks.map(({ disk, bitmap }) => inspected(disk, bitmap)),
    left,
    next: { kind, how, why },
    warnings: [...warnings, ...more],
  };
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
