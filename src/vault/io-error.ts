/** What a failed file operation in the vault means to a caller. */
import { errnoOf, QmpvaultError } from '../base/errors.ts';

export function isErrno(error: unknown, ...names: readonly string[]): boolean {
  return names.includes(errnoOf(error) ?? '');
}

/** A full NAS is told apart, since the operator can do something about it. Errors of ours pass unchanged. */
export function ioError(error: unknown, doing: string, path: string): QmpvaultError {
  if (error instanceof QmpvaultError) return error;
  const details = { path, errno: errnoOf(error) ?? null };
  if (isErrno(error, 'ENOSPC', 'EDQUOT')) {
    return new QmpvaultError('vault-full', `no space left while ${doing} ${path}: free some and repeat`, {
      details,
      cause: error,
    });
  }
  return new QmpvaultError(
    'vault-unreadable',
    `${doing} ${path} failed with ${details.errno ?? String(error)}: check the mount and its permissions`,
    { details, cause: error },
  );
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
