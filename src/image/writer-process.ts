/**
 * The process behind a writer: how it is started so that it outlives us, found again, and ended. In its folder it
 * keeps `pid` and `log`.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { open, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { until } from '../base/deadline.ts';
import { errnoOf, messageOf, QmpvaultError } from '../base/errors.ts';
import { MiB } from '../base/units.ts';
import { isAlive, type ProcessId, parseProcessId } from './process-id.ts';

/** Less than the two seconds in which the writer must be given up. */
const DEATH_MS = 1_500;

/**
 * The shell writes down which process it is, and then becomes the daemon: at no moment does a writer live that
 * nobody could find. $0 is the folder; `set --` splits the fields of /proc/PID/stat behind the name.
 */
const NOTE_AND_EXEC = `
read -r stat </proc/$$/stat && read -r boot </proc/sys/kernel/random/boot_id || exit
start=$(set -- \${stat##*) }; shift 19; echo "$1")
echo "$$ $start $boot" >"$0/pid" && exec "$@"`;

/**
 * A buffer of a request is 1 MiB, for which glibc maps memory that the kernel has to zero first, and gives it back
 * after the request. Kept on the heap it spares the writer half of its work: a full of 1 GiB takes 0.7 instead of 1.0 s
 * (m: 7.2 and 11.1; mallopt(3)).
 */
const KEEP_BUFFERS = { MALLOC_MMAP_THRESHOLD_: `${4 * MiB}`, MALLOC_TRIM_THRESHOLD_: `${64 * MiB}` };

/**
 * Starts a program in a session of its own, with `dir/log` for its output and `dir/pid` saying who it is.
 * @throws writer-failed
 */
export async function startDetached(dir: string, command: readonly string[]): Promise<ChildProcess> {
  await using log = await open(join(dir, 'log'), 'a', 0o600);
  try {
    const child = spawn('/bin/sh', ['-c', NOTE_AND_EXEC, dir, ...command], {
      detached: true,
      // Not ours: what we stand in may have to be unmounted while it lives.
      cwd: '/',
      env: { ...process.env, ...KEEP_BUFFERS },
      stdio: ['ignore', log.fd, log.fd],
    });
    await once(child, 'spawn');
    child.unref();
    return child;
  } catch (cause) {
    throw new QmpvaultError('writer-failed', `cannot start /bin/sh: ${messageOf(cause)}`, { cause });
  }
}

/** The process that was started in this folder, dead or alive; null if none was. */
export async function processIn(dir: string): Promise<ProcessId | null> {
  try {
    return parseProcessId(await readFile(join(dir, 'pid'), 'latin1'));
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return null;
    throw error;
  }
}

/** Resolves when the process has ended; keeps nobody waiting for that alone. */
export async function endOf(id: ProcessId): Promise<void> {
  while (await isAlive(id)) await delay(20, undefined, { ref: false });
}

/** SIGKILL. Returns when it is dead, and within two seconds also when it hangs in the kernel and cannot die yet. */
export async function kill(id: ProcessId): Promise<void> {
  if (!(await isAlive(id))) return;
  try {
    process.kill(id.pid, 'SIGKILL');
    await until(async () => ((await isAlive(id)) ? undefined : true), {
      timeoutMs: DEATH_MS,
      what: 'its end',
    });
  } catch {
    // It has gone by itself meanwhile, or hangs in the kernel: it will do no more than end.
  }
}
