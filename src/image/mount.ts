/**
 * Mounting network filesystems with mount(8), under deadlines: a server that does not answer keeps `mount` in the
 * kernel, where it cannot be killed. Then it is left behind, and nobody waits for it.
 */
import { execa } from 'execa';
import { bounded, throwIfAborted } from '../base/deadline.ts';
import { QmpvaultError } from '../base/errors.ts';

export interface MountOptions {
  readonly type: string;
  readonly source: string;
  readonly dir: string;
  /** As `mount -o` takes them; empty: none. */
  readonly options: string;
  readonly timeoutMs: number;
  readonly signal?: AbortSignal | undefined;
}

/** How long to wait for the end of what was killed. */
const DEATH_MS = 1_000;

/** @throws vault-away when it could not be mounted, or not in time; cancelled */
export async function mountFilesystem({
  type,
  source,
  dir,
  options,
  timeoutMs,
  signal,
}: MountOptions): Promise<void> {
  const args = ['-t', type, source, dir, ...(options === '' ? [] : ['-o', options])];
  await run('mount', args, { timeoutMs, signal, what: `mounting ${source} (${type})` });
}

/**
 * @param lazy detach it now, whoever still has files open in it
 * @throws vault-unreadable
 */
export async function unmountFilesystem(
  dir: string,
  { timeoutMs, lazy = false }: { timeoutMs: number; lazy?: boolean },
): Promise<void> {
  await run('umount', [...(lazy ? ['--lazy'] : []), dir], {
    timeoutMs,
    what: `unmounting ${dir}`,
    code: 'vault-unreadable',
  });
}

interface RunOptions {
  readonly timeoutMs: number;
  readonly signal?: AbortSignal | undefined;
  readonly what: string;
  readonly code?: 'vault-away' | 'vault-unreadable';
}

async function run(
  program: string,
  args: readonly string[],
  { timeoutMs, signal, what, code = 'vault-away' }: RunOptions,
): Promise<void> {
  throwIfAborted(signal);
  // In a group of its own: `mount` waits for a helper, such as mount.nfs, which must end with it.
  const child = execa(program, args, {
    reject: false,
    detached: true,
    // A helper that asks for a password must not wait for one.
    stdin: 'ignore',
    stdout: 'ignore',
    env: { LC_ALL: 'C' },
  });
  let ended: Awaited<typeof child>;
  try {
    ended = await bounded(child, { signal, timeoutMs, what, code });
  } catch (error) {
    killGroup(child.pid);
    await bounded(child, { timeoutMs: DEATH_MS, what }).catch(() => {
      child.unref();
      child.stderr.destroy();
    });
    throw error;
  }
  if (!ended.failed) return;
  const why = ended.stderr.trim() || ended.shortMessage;
  throw new QmpvaultError(code, `${what} failed: ${why}`, { details: { program } });
}

function killGroup(pid: number | undefined): void {
  try {
    if (pid !== undefined) process.kill(-pid, 'SIGKILL');
  } catch {
    // It has ended meanwhile.
  }
}
