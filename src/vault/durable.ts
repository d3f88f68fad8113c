/**
 * Writes that survive a power cut, in the one order that does: temp, fsync, close, rename, fsync of the folder.
 *
 * A folder's fsync is not offered everywhere (EINVAL on CIFS and FUSE, ENOTSUP on some NFS servers) and there
 * the rename itself is synchronous; a file's fsync that fails always means lost bytes, and the kernel reports it
 * once only: whoever sees it must not try again and believe the second answer.
 */
import { randomBytes } from 'node:crypto';
import * as fs from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { QmpvaultError } from '../base/errors.ts';
import { ioError, isErrno, unlessMissing } from './io-error.ts';
import { TEMPORARY_PREFIX } from './layout.ts';

/** A name beside the given one that no other process has. */
export function temporaryBeside(path: string): string {
  return join(dirname(path), TEMPORARY_PREFIX + randomBytes(8).toString('hex'));
}

/** Replaces or makes a file: its readers see the old contents or the new ones. @throws vault-full, vault-unreadable, sync-failed */
export async function writeFileDurably(path: string, contents: string | Buffer): Promise<void> {
  const temporary = temporaryBeside(path);
  try {
    await writeNew(temporary, contents);
    await renameDurably(temporary, path, async () => (await fs.readFile(path)).equals(Buffer.from(contents)));
  } catch (error) {
    await fs.rm(temporary, { force: true }).catch(() => {});
    throw ioError(error, 'writing', path);
  }
}

/**
 * Makes a file that must not exist yet, complete from its first instant: a hard link refuses an existing name on
 * every NAS. Where there are no hard links (FAT, some SMB servers), an exclusive open does, and only then can a
 * reader see the file before its text.
 * @returns false when somebody else's file is there
 * @throws vault-full, vault-unreadable, sync-failed
 */
export async function createFileDurably(
  path: string,
  text: string,
  { link = fs.link, attempts = 3 } = {},
): Promise<boolean> {
  const temporary = temporaryBeside(path);
  try {
    await writeNew(temporary, text);
    await link(temporary, path).catch((error: unknown) => {
      if (!isErrno(error, 'EPERM', 'ENOTSUP', 'EOPNOTSUPP', 'ENOSYS', 'EMLINK')) throw error;
      return writeNew(path, text);
    });
    await syncFolder(dirname(path));
    return true;
  } catch (error) {
    // A retransmitted NFS request is answered EEXIST although the first one did it.
    if (isErrno(error, 'EEXIST')) return (await fs.readFile(path, 'utf8').catch(() => '')) === text;
    // Whoever took the lease in this instant may have swept our temporary file away.
    if (isErrno(error, 'ENOENT') && attempts > 1) {
      return createFileDurably(path, text, { link, attempts: attempts - 1 });
    }
    throw ioError(error, 'creating', path);
  } finally {
    await fs.rm(temporary, { force: true }).catch(() => {});
  }
}

/**
 * @param isOurs asked when the rename says ENOENT: a retransmitted NFS request does so after the first one
 *   succeeded. Looks whether the final name is what we meant to put there.
 * @throws vault-full, vault-unreadable, sync-failed (then the rename may or may not survive a power cut)
 */
export async function renameDurably(from: string, to: string, isOurs: () => Promise<boolean>): Promise<void> {
  await renameOnce(from, to, isOurs);
  await syncFolder(dirname(to));
}

/** The rename alone: what follows has to tell it from the fsync. @throws vault-full, vault-unreadable */
export async function renameOnce(from: string, to: string, isOurs: () => Promise<boolean>): Promise<void> {
  try {
    await fs.rename(from, to);
  } catch (error) {
    const replayed = isErrno(error, 'ENOENT') && (await isOurs().catch(() => false));
    if (!replayed) throw ioError(error, 'renaming to', to);
  }
}

/** @throws sync-failed, vault-full, vault-unreadable */
export async function syncFolder(path: string): Promise<void> {
  const handle = await fs.open(path, 'r').catch((error: unknown) => {
    throw ioError(error, 'opening', path);
  });
  try {
    await handle.sync();
  } catch (error) {
    if (!isErrno(error, 'EINVAL', 'ENOTSUP', 'EOPNOTSUPP')) throw syncError(error, path);
  } finally {
    await handle.close();
  }
}

/** @throws sync-failed, vault-full */
export async function syncFile(handle: fs.FileHandle, path: string): Promise<void> {
  await handle.sync().catch((error: unknown) => {
    throw syncError(error, path);
  });
}

/** Removes a file or a folder, if it is there. @throws vault-unreadable, sync-failed */
export async function removeDurably(path: string): Promise<void> {
  try {
    await fs.rm(path, { recursive: true, force: true });
    await syncFolder(dirname(path));
  } catch (error) {
    throw ioError(error, 'removing', path);
  }
}

/** Removes what killed writers left in a folder, if there is one. Only for the holder of the lease. */
export async function sweepTemporaries(folder: string): Promise<void> {
  const names = (await unlessMissing(fs.readdir(folder), 'listing', folder)) ?? [];
  for (const name of names.filter((name) => name.startsWith(TEMPORARY_PREFIX))) {
    await fs.rm(join(folder, name), { force: true });
  }
}

/** All of it or no file. */
async function writeNew(path: string, contents: string | Buffer): Promise<void> {
  const handle = await fs.open(path, 'wx');
  try {
    await handle.writeFile(contents);
    await syncFile(handle, path);
    await handle.close();
  } catch (error) {
    await handle.close().catch(() => {});
    await fs.rm(path, { force: true }).catch(() => {});
    throw error;
  }
}

function syncError(error: unknown, path: string): QmpvaultError {
  const known = ioError(error, 'syncing', path);
  if (known.code === 'vault-full') return known;
  return new QmpvaultError(
    'sync-failed',
    `fsync of ${path} failed with ${known.details['errno']}: what was written may be lost. Check the NAS, then repeat.`,
    { details: known.details, cause: error },
  );
}
