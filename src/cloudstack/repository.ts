/**
 * The repository of a call: mounted on a folder of its own for as long as the call lasts, and gone on every way out.
 * scripts/nasbackup gives the process a mount namespace of its own, so that also a killed one leaves no mount.
 */
import { mkdir, mkdtemp, readdir, realpath, rmdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { codeOf, messageOf, QmpvaultError } from '../base/errors.ts';
import { mountFilesystem, unmountFilesystem } from '../image/mount.ts';
import { mountedAt, readMountTable } from '../image/mount-table.ts';
import { describe } from '../image/process-id.ts';
import { VaultMemory } from '../vault/memory.ts';
import { initVault, openVault, type Vault, type VaultOptions } from '../vault/vault.ts';
import type { Repository } from './call.ts';
import type { Site } from './site.ts';

/** The call failed, and something of it is left. */
export class NotCleanedUp extends Error {}

const UNMOUNT_MS = 30_000;

/** @throws vault-away, cancelled, what `work` throws; NotCleanedUp with its failure as the cause */
export async function inRepository<T>(
  repository: Repository,
  site: Site,
  work: (vault: RepositoryVault) => Promise<T>,
): Promise<T> {
  if (repository.type === 'path')
    return work(new RepositoryVault(await folderOf(repository), repository, site));
  await sweep(site);
  const dir = await mountPoint(site);
  let failure: { error: unknown } | undefined;
  let mounted = false;
  try {
    const { address, ...rest } = repository;
    const { signal } = site;
    await mountFilesystem({ ...rest, source: address, dir, timeoutMs: repository.mountTimeoutMs, signal });
    mounted = true;
    return await work(new RepositoryVault(dir, repository, site));
  } catch (error) {
    failure = { error };
    throw error;
  } finally {
    await unmount(dir, site, mounted).catch((error: unknown) => {
      site.engine.log.warn({ dir }, messageOf(error));
      // What was done is done: the size of a backup that was made has to be told.
      if (failure === undefined) return;
      throw new NotCleanedUp(`${messageOf(failure.error)}; and then ${messageOf(error)}`, {
        cause: failure.error,
      });
    });
  }
}

/** The vault in the repository. It is remembered by the NAS's address: the path is another one each time. */
export class RepositoryVault {
  readonly path: string;
  readonly #options: VaultOptions;

  constructor(path: string, { type, address }: Repository, { engine }: Site) {
    this.path = path;
    const memory = new VaultMemory(engine.stateDir);
    const key = `/${type}/${address}`;
    this.#options = {
      memory:
        type === 'path'
          ? memory
          : { recall: () => memory.recall(key), remember: (_, id) => memory.remember(key, id) },
    };
  }

  /** @throws vault-missing, vault-away, vault-format, vault-unreadable */
  open(): Promise<Vault> {
    return openVault(this.path, this.#options);
  }

  /** The one that is there, or a new one beside whatever else there is. @throws vault-away, vault-known, … */
  async openOrMake(): Promise<Vault> {
    try {
      return await this.open();
    } catch (error) {
      if (codeOf(error) !== 'vault-missing') throw error;
      return initVault(this.path, this.#options);
    }
  }
}

async function folderOf({ address }: Repository): Promise<string> {
  const found = await stat(address).catch(() => null);
  if (found?.isDirectory()) return address;
  throw new QmpvaultError('vault-away', `${address} is no folder: is the repository mounted?`, {
    details: { path: address },
  });
}

/** Named for its process: a mount point must not be removed under a living one, which would detach what is mounted there. */
async function mountPoint({ engine: { runtimeDir } }: Site): Promise<string> {
  await mkdir(runtimeDir, { recursive: true, mode: 0o711 });
  const self = await describe(process.pid);
  return mkdtemp(join(await realpath(runtimeDir), `nas-${process.pid}-${self?.startTime}-`));
}

/** What killed ones left: folders and, without a namespace of their own, mounts. */
async function sweep(site: Site): Promise<void> {
  const runtimeDir = await realpath(site.engine.runtimeDir).catch(() => site.engine.runtimeDir);
  for (const name of await readdir(runtimeDir).catch(() => [])) {
    const [, pid, startTime] = /^nas-(\d+)-(\d+)-/.exec(name) ?? [];
    if (pid === undefined || (await describe(Number(pid)))?.startTime === Number(startTime)) continue;
    await unmount(join(runtimeDir, name), site).catch((error: unknown) => {
      site.engine.log.warn({ name }, messageOf(error));
    });
  }
}

/** Also of what is not mounted, or not any more. @throws vault-unreadable */
async function unmount(dir: string, { engine }: Site, mounted = false): Promise<void> {
  await new VaultMemory(engine.stateDir).forget(dir).catch(() => {});
  if (mounted || mountedAt(await readMountTable(), dir) !== null) {
    await unmountFilesystem(dir, { timeoutMs: UNMOUNT_MS }).catch(async (error: unknown) => {
      engine.log.warn({ dir }, `${messageOf(error)}: it is detached instead`);
      await unmountFilesystem(dir, { timeoutMs: UNMOUNT_MS, lazy: true });
    });
  }
  await rmdir(dir).catch((cause: unknown) => {
    throw new QmpvaultError('vault-unreadable', `${dir} could not be removed: ${messageOf(cause)}`, {
      cause,
    });
  });
}
