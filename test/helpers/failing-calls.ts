/** System calls of a running process that fail as they do on storage that is broken: strace answers in the kernel's place. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { signalIfThere, type Teardown, tempDir } from './temp-dir.ts';

export interface FailingCalls {
  /** How many have failed so far. */
  readonly fired: number;
  /** They work again. */
  end(): Promise<void>;
}

/**
 * From when it returns on, these calls on this path fail.
 * @param options.calls names of system calls
 * @param options.when which of them, as strace counts: `3` the third, `3+` from the third on; default all
 */
export async function failCalls(
  t: Teardown,
  {
    pid,
    path,
    calls,
    error,
    when,
  }: { pid: number; path: string; calls: readonly string[]; error: 'EIO' | 'ENOSPC'; when?: string },
): Promise<FailingCalls> {
  const log = join(tempDir(t), 'strace.log');
  const which = when === undefined ? '' : `:when=${when}`;
  const inject = `inject=${calls.join(',')}:error=${error}${which}`;
  const child = spawn(
    'strace',
    ['-f', '-o', log, '-P', path, '-e', `trace=${calls.join(',')}`, '-e', inject, '-p', `${pid}`],
    { stdio: ['ignore', 'ignore', 'pipe'] },
  );
  const exited = once(child, 'exit');
  const end = async () => {
    child.kill('SIGTERM');
    await exited;
  };
  t.teardown(() => child.pid && signalIfThere(child.pid, 'SIGKILL'));
  let said = '';
  while (!said.includes('attached')) {
    const [chunk] = await Promise.race([once(child.stderr, 'data'), exited.then(() => [null])]);
    if (chunk === null) throw new Error(`strace could not attach to ${pid}: ${said}`);
    said += chunk;
  }
  child.stderr.resume();
  return {
    get fired() {
      return readFileSync(log, 'latin1').split('(INJECTED)').length - 1;
    },
    end,
  };
}
