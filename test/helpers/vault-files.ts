/** Vaults in temporary folders, and points without contents. */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { DiskName, PointId, RunId, VaultId, VmName } from '../../src/base/ids.ts';
import type { Change } from '../../src/vault/change.ts';
import type { Lease } from '../../src/vault/lease.ts';
import type { Manifest, ManifestDisk } from '../../src/vault/manifest.ts';
import { VaultMemory } from '../../src/vault/memory.ts';
import type { PointListing } from '../../src/vault/points.ts';
import type { Staging } from '../../src/vault/staging.ts';
import { initVault, type Vault } from '../../src/vault/vault.ts';
import type { VmFolder } from '../../src/vault/vm-folder.ts';
import { type Teardown, tempDir } from './temp-dir.ts';

export async function tempVault(t: Teardown): Promise<{ vault: Vault; vm: VmFolder; memory: VaultMemory }> {
  const dir = tempDir(t);
  const memory = new VaultMemory(join(dir, 'state'));
  const vault = await initVault(join(dir, 'vault'), { memory });
  return { vault, vm: vault.vm('web1'), memory };
}

/** A lease that is released at the end of the test, also when that fails. */
export async function leaseOf(t: Teardown, vm: VmFolder): Promise<Lease> {
  const lease = await vm.acquireLease({ what: 'a test' });
  t.teardown(() => lease.release().catch(() => {}));
  return lease;
}

export const point = (id: string) => id as PointId;

export function diskOf(overrides: Partial<ManifestDisk> = {}): ManifestDisk {
  return {
    name: 'vda' as DiskName,
    kind: 'full',
    file: 'vda.qcow2',
    virtualSizeBytes: 1 << 30,
    copiedBytes: 65536,
    storedBytes: 262144,
    sha256: null,
    bitmap: null,
    granularityBytes: 65536,
    source: {
      image: '/images/vda.qcow2',
      format: 'qcow2',
      node: 'drive0',
      device: '/machine/peripheral/vda',
    },
    ...overrides,
  };
}

/** A valid manifest: a full, or an incremental when a parent is given. */
export function manifestOf(id: string, overrides: Partial<Manifest> = {}): Manifest {
  const kind = overrides.parent ? 'incremental' : 'full';
  return {
    format: 1,
    id: point(id),
    vm: { name: 'web1' as VmName, uuid: '7d5b6a0e-9d5c-4d84-8b6c-2f6a9a0a7e11' },
    vault: '0123456789abcdef0123456789abcdef' as VaultId,
    createdAt: '2026-11-20T08:41:12.123Z',
    kind,
    parent: null,
    how: kind === 'full' ? 'first' : 'tracked',
    why: 'a test asked for it',
    consistency: 'crash',
    sealed: false,
    disks: [diskOf({ kind })],
    left: [],
    timings: { freezeMs: null, pauseMs: 3.9, copyMs: 80, totalMs: 190 },
    versions: { engine: '0.1.0', qemu: '7.2.22', format: 1 },
    run: '5f3a0c11' as RunId,
    ...overrides,
  };
}

/** A listing without anything broken or under way. */
export function listingOf(points: readonly Manifest[]): PointListing {
  return { points: [...points], broken: [], going: [], change: null };
}

/** A change that moves and removes nothing. */
export function changeOf(overrides: Partial<Change> = {}): Change {
  return {
    format: 1,
    what: 'a test',
    stage: 'gathering',
    moves: [],
    parents: [],
    removes: [],
    ...overrides,
  };
}

/** A staging folder with the one file that `manifestOf` names, written and held. */
export async function stagedPoint(vm: VmFolder, id: string, lease: Lease): Promise<Staging> {
  const staging = await vm.createStaging(point(id), lease);
  await writeFile(staging.diskPath('vda.qcow2'), 'not really a qcow2');
  await staging.hold('vda.qcow2');
  return staging;
}

export async function publishPoint(
  vm: VmFolder,
  lease: Lease,
  id: string,
  overrides: Partial<Manifest> = {},
): Promise<Manifest> {
  const manifest = manifestOf(id, overrides);
  await (await stagedPoint(vm, id, lease)).publish(manifest, lease);
  return manifest;
}
