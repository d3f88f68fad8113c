/** What a failed file operation in the vault means to a caller. */
import { errnoOf, QmpvaultError } from '../base/errors.ts';

export function isErrno(error: unknown, ...names: readonly string[]): boolean {
  return names.includes(errnoOf(error) ?? '');
}

/** A full NAS is told apart, since the operator can do something about it. Errors of ours pass unchanged. */
export function ioError(error: unknown, doing: string, path: string): QmpvaultError {
  if (error instanceof QmpvaultError) return error;
  if (isFull(error)) return fullError(error, doing, path);
  const details = { path, errno: errnoOf(error) ?? null };
  return new QmpvaultError(
    'vault-unreadable',
    `${doing} ${path} failed with ${details.errno ?? String(error)}: check the mount and its permissions`,
    { details, cause: error },
  );
}

/** The same of what a tool of QEMU's did there: only that the NAS is full is not the tool's own failure. */
export function toolError(error: unknown, doing: string, path: string): unknown {
  return isFull(error) ? fullError(error, doing, path) : error;
}

function isFull(error: unknown): boolean {
  return isErrno(error, 'ENOSPC', 'EDQUOT');
}

function fullError(cause: unknown, doing: string, path: string): QmpvaultError {
  const details = { path, errno: errnoOf(cause) ?? null };
  return new QmpvaultError('vault-full', `no space left while ${doing} ${path}: free some and repeat`, {
    details,
    cause,
  });
}

/** `undefined` when the file or folder does not exist. @throws vault-full, vault-unreadable */
export async function unlessMissing<T>(
  operation: Promise<T>,
  doing: string,
  path: string,
): Promise<T | undefined> {
  try {
    return await operation;
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return undefined;
    throw ioError(error, doing, path);
  }
}
