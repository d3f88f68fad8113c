/**
 * One place that a disk is restored to: a file, which appears under its name complete or not at all, or a block
 * device, which is written in place.
 *
 * Our own descriptor on it is open before qemu-img begins and is the one that is synced at the end: Linux reports
 * a failed write-back to the descriptors that were open when it happened.
 */
import { randomBytes } from 'node:crypto';
import { constants, type Stats } from 'node:fs';
import * as fs from 'node:fs/promises';
import { dirname, join, sep } from 'node:path';
import { errnoOf, messageOf, QmpvaultError } from '../base/errors.ts';
import { imageInfo } from '../image/qemu-img.ts';
import type { QemuTools } from '../image/tools.ts';
import { syncFolder } from '../vault/durable.ts';
import { isWrittenByQemu } from './image-locks.ts';

/** What is known of a target before anything is written. */
export interface TargetSite {
  /** As it was asked for, absolute. */
  readonly path: string;
  /** What `path` leads to: symbolic links (`/dev/vg/lv`) resolved. */
  readonly realPath: string;
  /** Where a file is written before it has its name. */
  readonly partPath: string;
  /** The nearest folder that exists; the ones below it are still to be made. */
  readonly existingFolder: string;
  /** The file that is replaced. */
  readonly replaces: Stats | null;
  /** null: a file. */
  readonly device: { readonly sizeBytes: number } | null;
}

/**
 * Looks at a target and refuses what must not be overwritten.
 * @throws target-exists without force; target-unfit for what is no file or block device, is in use, or lies in the vault
 */
export async function surveyTarget(
  tools: QemuTools,
  { path, force, vaultPath }: { path: string; force: boolean; vaultPath: string },
): Promise<TargetSite> {
  const found = await lookAt(path);
  // A link that leads nowhere is itself what a rename replaces.
  const realPath = found === null || found.isSymbolicLink() ? path : await fs.realpath(path);
  const existingFolder = await nearestFolder(dirname(realPath));
  if (`${existingFolder}${sep}`.startsWith(`${await fs.realpath(vaultPath)}${sep}`)) {
    throw unfit(path, 'lies in the vault: restore to somewhere else');
  }
  const partPath = join(dirname(realPath), `.qmpvault-${randomBytes(8).toString('hex')}.part`);
  const site = { path, realPath, partPath, existingFolder, replaces: null, device: null };
  if (found === null) return site;
  if (!found.isFile() && !found.isBlockDevice() && !found.isSymbolicLink()) {
    throw unfit(path, 'is neither a file nor a block device');
  }
  if (!force) {
    throw new QmpvaultError(
      'target-exists',
      `${path} exists: choose another target, or overwrite it with --force`,
      {
        details: { path },
      },
    );
  }
  if (found.isSymbolicLink()) return site;
  if (found.isFile()) {
    if (await isWrittenByQemu(found)) throw unfit(path, 'is open in a running QEMU: stop the VM first');
    return { ...site, replaces: found };
  }
  // As raw its contents are not interpreted.
  const { virtualSizeBytes } = await imageInfo(tools, { path: realPath, format: 'raw' }).catch((error) => {
    throw unfit(path, `cannot be read: ${messageOf(error)}`, error);
  });
  return { ...site, device: { sizeBytes: virtualSizeBytes } };
}

/** A target that is open for writing. Ends with `publish` or `discard`. */
export class Target {
  readonly site: TargetSite;
  /** What qemu-img writes to. */
  readonly writePath: string;
  readonly #handle: fs.FileHandle;
  #isOpen = true;
  #isFlushing = false;
  #flushed: Promise<void> = Promise.resolve();
  #failure: unknown = null;

  private constructor(site: TargetSite, writePath: string, handle: fs.FileHandle) {
    this.site = site;
    this.writePath = writePath;
    this.#handle = handle;
  }

  /** The folder must exist. @throws target-unfit, restore-failed */
  static async open(site: TargetSite): Promise<Target> {
    const { path, realPath, partPath, device } = site;
    try {
      if (device === null) {
        // Not for everybody's eyes: these are the contents of the VM's disk.
        return new Target(site, partPath, await fs.open(partPath, 'wx', 0o600));
      }
      // O_EXCL without O_CREAT: Linux refuses a device that is mounted, or part of another one, until we close.
      return new Target(site, realPath, await fs.open(realPath, constants.O_RDWR | constants.O_EXCL));
    } catch (error) {
      if (errnoOf(error) === 'EBUSY') throw unfit(path, 'is mounted or in use', error);
      throw targetError(error, 'opening', path);
    }
  }

  /**
   * Begins to make durable what is there, so that neither the page cache, which the host's guests need too, nor the last
   * fsync gets all of a large disk. How it ended tells `sync`.
   */
  flush(): void {
    if (this.#isFlushing) return;
    this.#isFlushing = true;
    this.#flushed = this.#heed(this.#handle.datasync()).finally(() => {
      this.#isFlushing = false;
    });
  }

  /** @throws sync-failed, restore-failed */
  async sync(): Promise<void> {
    const { path } = this.site;
    await this.#flushed;
    await this.#heed(this.#handle.sync());
    const error = this.#failure;
    if (error === null) return;
    // On a share only the fsync may tell that it is full.
    if (['ENOSPC', 'EDQUOT'].includes(errnoOf(error) ?? '')) throw targetError(error, 'restoring to', path);
    throw new QmpvaultError('sync-failed', `fsync of ${path} failed: what was restored may be lost`, {
      details: { path, errno: errnoOf(error) ?? null },
      cause: error,
    });
  }

  /** The first failure is the target's: the kernel tells a descriptor of it once, and the next fsync succeeds. */
  async #heed(syncing: Promise<void>): Promise<void> {
    await syncing.catch((error: unknown) => {
      this.#failure ??= error;
    });
  }

  /** Whole, and closed. A file gets the owner and mode of the one that it replaces. */
  async complete(): Promise<void> {
    const { path, replaces } = this.site;
    try {
      if (replaces !== null) {
        await this.#handle.chmod(replaces.mode & 0o7777);
        await this.#handle.chown(replaces.uid, replaces.gid).catch(() => {});
      }
      this.#isOpen = false;
      await this.#handle.close();
    } catch (error) {
      throw targetError(error, 'finishing', path);
    }
  }

  /** Durable under its own name when it returns. */
  async publish(): Promise<void> {
    const { path, realPath, device } = this.site;
    await this.complete();
    if (device !== null) return;
    try {
      await fs.rename(this.writePath, realPath);
      await syncFolder(dirname(realPath));
    } catch (error) {
      throw targetError(error, 'finishing', path);
    }
  }

  /** Leaves nothing of a file. A device holds what was written so far. */
  async discard(): Promise<void> {
    if (this.#isOpen) await this.#handle.close();
    this.#isOpen = false;
    if (this.site.device === null) await fs.rm(this.writePath, { force: true });
  }
}

/** Makes a folder and what is missing above it, durably. @returns how to undo that */
export async function makeFolder(path: string): Promise<() => Promise<void>> {
  try {
    const first = await fs.mkdir(path, { recursive: true });
    if (first === undefined) return async () => {};
    await syncFolder(dirname(first));
    return async () => {
      for (let folder = path; folder.startsWith(first); folder = dirname(folder)) await fs.rmdir(folder);
    };
  } catch (error) {
    throw targetError(error, 'making', path);
  }
}

/** @throws restore-failed */
export function targetError(error: unknown, doing: string, path: string): QmpvaultError {
  const errno = errnoOf(error) ?? null;
  const then =
    errno === 'ENOSPC' || errno === 'EDQUOT' ? 'no space is left: free some and repeat' : messageOf(error);
  return new QmpvaultError('restore-failed', `${doing} ${path} failed: ${then}`, {
    details: { path, errno },
    cause: error,
  });
}

export function unfit(path: string, problem: string, cause?: unknown): QmpvaultError {
  return new QmpvaultError('target-unfit', `the target ${path} ${problem}`, {
    details: { path, problem },
    cause,
  });
}

/** What a path leads to; the link itself when it leads nowhere; null when there is nothing. */
async function lookAt(path: string): Promise<Stats | null> {
  try {
    return await fs.stat(path).catch(() => fs.lstat(path));
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return null;
    throw unfit(path, `cannot be used: ${messageOf(error)}`, error);
  }
}

async function nearestFolder(path: string): Promise<string> {
  try {
    const real = await fs.realpath(path);
    if ((await fs.stat(real)).isDirectory()) return real;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return nearestFolder(dirname(path));
    throw unfit(path, `cannot be used: ${messageOf(error)}`, error);
  }
  throw unfit(path, 'is no folder');
}
