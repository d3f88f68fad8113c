/** A vault: a folder, usually on a NAS, with vault.json in it. Without that file nothing in it is believed. */
import * as fs from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { z } from 'zod';
import { QmpvaultError } from '../base/errors.ts';
import { newVaultId, type VaultId, type VmName, vmName } from '../base/ids.ts';
import { createFileDurably } from './durable.ts';
import { ioError, isErrno, unlessMissing } from './io-error.ts';
import { isCandidate, VAULT_FILE, VM_FILE } from './layout.ts';
import { FORMAT, isVaultId, parseVaultJson } from './manifest.ts';
import type { VaultMemory } from './memory.ts';
import { readText } from './read-text.ts';
import { type FinishChange, VmFolder } from './vm-folder.ts';

const schema = z.looseObject({
  format: z.literal(FORMAT),
  id: z.custom<VaultId>(isVaultId),
  createdAt: z.string(),
});

export class Vault {
  readonly path: string;
  readonly id: VaultId;

  readonly finishChange: FinishChange;

  constructor(path: string, id: VaultId, finishChange: FinishChange = refuseToFinish) {
    this.path = path;
    this.id = id;
    this.finishChange = finishChange;
  }

  /** Sorted. @throws vault-away, vault-unreadable */
  async vmNames(): Promise<VmName[]> {
    await this.assertPresent();
    const entries = await fs.readdir(this.path, { withFileTypes: true }).catch((error: unknown) => {
      throw ioError(error, 'listing', this.path);
    });
    return entries
      .filter((entry) => entry.isDirectory() && isCandidate(entry.name))
      .flatMap(({ name }) => validVmName(name))
      .toSorted();
  }

  /** Touches nothing; the folder is made when its lease is first taken. @throws name-invalid */
  vm(name: string): VmFolder {
    return new VmFolder(this, vmName(name));
  }

  /** That this very vault is still mounted here. @throws vault-away, vault-unreadable */
  async assertPresent(): Promise<void> {
    if ((await readVaultId(this.path)) !== this.id) throw away(this.path, this.id);
  }
}

export interface VaultOptions {
  /** Where a vault is mounted anew each time, one that goes by the NAS's address instead of the path. */
  readonly memory: Pick<VaultMemory, 'recall' | 'remember'>;
  /** Without it, an open change keeps everybody from changing more. */
  readonly finishChange?: FinishChange;
}

/** @throws vault-missing; vault-away when this host knew one here; vault-format, vault-unreadable */
export async function openVault(path: string, { memory, finishChange }: VaultOptions): Promise<Vault> {
  const known = await memory.recall(path);
  const id = await readVaultId(path);
  if (id === null) {
    if (known !== null) throw away(path, known);
    throw new QmpvaultError(
      'vault-missing',
      `there is no vault at ${path}: 'qmpvault init ${path}' makes one`,
      {
        details: { path },
      },
    );
  }
  // The first vault seen at a path stays the remembered one, until --new-vault. Where nothing can be remembered (a
  // rescue system without a writable disk) a vault can still be read.
  if (known === null) {
    await memory.remember(path, id).catch((error: unknown) => {
      if (!isErrno(error, 'EROFS', 'EACCES', 'EPERM')) throw error;
    });
  }
  return new Vault(resolve(path), id, finishChange);
}

/**
 * Makes a vault, or opens the one that is there.
 * @param newVault the operator's word that a vault known here before is not to be waited for
 * @throws vault-known, vault-full, vault-unreadable, vault-format, sync-failed
 */
export async function initVault(
  path: string,
  { memory, finishChange, newVault = false }: VaultOptions & { newVault?: boolean },
): Promise<Vault> {
  if ((await readVaultId(path)) === null) {
    if (!newVault) await refuseKnown(path, memory);
    await makeVaultFile(path);
  }
  const id = await readVaultId(path);
  if (id === null)
    throw new QmpvaultError('vault-unreadable', `${path} went away while a vault was made in it`);
  const known = await memory.recall(path);
  if (known === null || newVault) await memory.remember(path, id);
  return new Vault(resolve(path), id, finishChange);
}

async function refuseToFinish({ path, name }: VmFolder): Promise<void> {
  throw new QmpvaultError(
    'vault-locked',
    `a change of the points of ${name} was interrupted, and has to be finished first: 'qmpvault delete' or 'qmpvault prune' does it`,
    { details: { path } },
  );
}

async function makeVaultFile(path: string): Promise<void> {
  try {
    await fs.mkdir(path, { recursive: true });
  } catch (error) {
    throw ioError(error, 'making', path);
  }
  const text = JSON.stringify(
    { format: FORMAT, id: newVaultId(), createdAt: new Date().toISOString() },
    null,
    2,
  );
  // That somebody else made one at the same time is as good.
  await createFileDurably(join(path, VAULT_FILE), `${text}\n`);
}

async function refuseKnown(path: string, memory: VaultOptions['memory']): Promise<void> {
  const known = await memory.recall(path);
  if (known !== null) {
    throw new QmpvaultError(
      'vault-known',
      `this host knows the vault ${known} at ${path}, and it is not there: mount it. If it is gone for good, repeat with --new-vault.`,
      { details: { path, known } },
    );
  }
  const orphan = await findVmFolder(path);
  if (orphan !== null) {
    throw new QmpvaultError(
      'vault-known',
      `${path} holds the VM folder ${orphan} but no ${VAULT_FILE}: put that file back. If its points are not wanted, repeat with --new-vault.`,
      { details: { path, orphan } },
    );
  }
}

async function findVmFolder(path: string): Promise<string | null> {
  const names = (await unlessMissing(fs.readdir(path), 'listing', path)) ?? [];
  for (const name of names) {
    const isVm = await fs.access(join(path, name, VM_FILE)).then(
      () => true,
      () => false,
    );
    if (isVm) return name;
  }
  return null;
}

async function readVaultId(path: string): Promise<VaultId | null> {
  const file = join(path, VAULT_FILE);
  const text = await readText(file);
  return text === undefined ? null : parseVaultJson(schema, text, file).id;
}

function away(path: string, known: VaultId): QmpvaultError {
  return new QmpvaultError(
    'vault-away',
    `the vault ${known} is known at ${path}, and it is not there: mount the NAS`,
    {
      details: { path, known },
    },
  );
}

function validVmName(name: string): VmName[] {
  try {
    return [vmName(name)];
  } catch {
    return [];
  }
}
