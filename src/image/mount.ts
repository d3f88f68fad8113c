/**
 * Mounting and unmounting with mount(8) and umount(8), under deadlines: a server that does not answer may keep them in the
 * kernel, where they cannot be killed. Then they are left behind, and nobody waits for them.
 */
import { bounded } from '../base/deadline.ts';
import { QmpvaultError } from '../base/errors.ts';
import { runCommand } from './command.ts';

export interface MountOptions {
  readonly type: string;
  readonly source: string;
  readonly dir: string;
  /** As `mount -o` takes them; empty: none. */
  readonly options: string;
  readonly timeoutMs: number;
  readonly signal?: AbortSignal | undefined;
}

/** @throws vault-away when it could not be mounted, or not in time; cancelled */
export async function mountFilesystem(mount: MountOptions): Promise<void> {
  const { type, source, dir, options, timeoutMs, signal } = mount;
  const wishes = options === '' ? [] : ['-o', options];
  const what = `mounting ${source} (${type})`;
  const why = await bounded(failureOf(['mount', '-t', type, source, dir, ...wishes], timeoutMs), {
    signal,
    what,
  });
  if (why !== null)
    throw new QmpvaultError('vault-away', `${what} failed: ${why}`, { details: { source, dir } });
}

/**
 * @param lazy detach it now, whoever still has files open in it
 * @throws vault-unreadable
 */
export async function unmountFilesystem(
  dir: string,
  { timeoutMs, lazy = false }: { timeoutMs: number; lazy?: boolean },
): Promise<void> {
  // `-c`: it does not look at the path first, which would hang where the server does.
  const why = await failureOf(['umount', ...(lazy ? ['-c', '-l'] : []), dir], timeoutMs);
  if (why === null) return;
  throw new QmpvaultError('vault-unreadable', `unmounting ${dir} failed: ${why}`, { details: { dir } });
}

async function failureOf(command: readonly [string, ...string[]], timeoutMs: number): Promise<string | null> {
  const { exitCode, output, timedOut } = await runCommand(command, { timeoutMs });
  if (timedOut) return `${command[0]} did not end within ${timeoutMs / 1000} s: the NAS does not answer`;
  return exitCode === 0 ? null : output || `${command[0]} ended with ${exitCode}`;
}
