/**
 * The local folders of a run. The VM and we may be two users: what the VM must enter belongs to it alone, what
 * commands the writer belongs to us alone.
 */
import { chown, mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { errnoOf, messageOf, QmpvaultError } from '../base/errors.ts';
import { type RunId, socketPath } from '../base/ids.ts';
import { createEmptyQcow2 } from '../image/empty-qcow2.ts';
import { GRANULARITY_BYTES } from '../vm/bitmaps.ts';
import type { VmProcess } from '../vm/vm-process.ts';
import type { Engine } from './engine.ts';

export interface RunFolders {
  /** The writer's control socket, pid and log; ours alone. */
  readonly writer: string;
  /** Where the VM finds the writer's NBD socket; the VM's alone. */
  readonly nbd: string;
  /** Of the scratch images; the VM's alone. */
  readonly scratch: string;
}

type Owner = Pick<VmProcess, 'uid' | 'gid'>;

export function runFolders(engine: Pick<Engine, 'runtimeDir' | 'scratchDir'>, run: RunId): RunFolders {
  return {
    writer: join(engine.runtimeDir, `qv-${run}`),
    nbd: join(engine.runtimeDir, `qv-${run}-nbd`),
    scratch: join(engine.scratchDir, `qv-${run}`),
  };
}

/** @throws path-too-long before anything is made */
export function nbdSocket({ nbd }: RunFolders): string {
  return socketPath(join(nbd, 'nbd.sock'));
}

/** Where the VM itself serves what is to be compared. @throws path-too-long */
export function vmNbdSocket({ nbd }: RunFolders): string {
  return socketPath(join(nbd, 'vm.sock'));
}

/** @throws vm-unfit when the VM's user could not be given its folders */
export async function makeRunFolders(folders: RunFolders, vm: Owner): Promise<void> {
  for (const folder of [folders.writer, folders.nbd, folders.scratch]) {
    // Others may pass through the parents, into what is theirs, and see nothing on the way.
    await mkdir(join(folder, '..'), { recursive: true, mode: 0o711 });
    await mkdir(folder, { mode: 0o700 });
  }
  if (vm.uid === process.geteuid?.()) return;
  for (const folder of [folders.nbd, folders.scratch]) await give(folder, vm);
}

/**
 * An empty image in the scratch folder, given away as it is made: who has the folder may put another file in its place
 * at any time. @throws scratch-full, vm-unfit
 */
export async function makeScratch({
  path,
  sizeBytes,
  owner,
}: {
  path: string;
  sizeBytes: number;
  owner: Owner;
}): Promise<void> {
  try {
    await createEmptyQcow2(path, { sizeBytes, clusterBytes: GRANULARITY_BYTES, owner });
  } catch (cause) {
    const errno = errnoOf(cause);
    throw new QmpvaultError(
      errno === 'ENOSPC' || errno === 'EDQUOT' ? 'scratch-full' : 'vm-unfit',
      `the scratch image ${path} cannot be made for user ${owner.uid}: ${messageOf(cause)}`,
      { details: { path, uid: owner.uid }, cause },
    );
  }
}

async function give(path: string, { uid, gid }: Owner): Promise<void> {
  try {
    await chown(path, uid, gid);
  } catch (cause) {
    throw new QmpvaultError(
      'vm-unfit',
      `the VM runs as user ${uid}, and ${path} cannot be given to it (${errnoOf(cause)}): run qmpvault as root or as that user`,
      { details: { path, uid }, cause },
    );
  }
}

export async function removeRunFolders(folders: RunFolders): Promise<void> {
  for (const folder of [folders.nbd, folders.scratch, folders.writer]) {
    await rm(folder, { recursive: true, force: true });
  }
}
