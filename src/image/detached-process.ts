/**
 * A process that may outlive us: how it is started so that it does, found again, and ended. In its folder it keeps
 * `pid` and `log`.
 */
import { type ChildProcess, type ChildProcessByStdio, spawn } from 'node:child_process';
import { once } from 'node:events';
import { open, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Readable, Writable } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import { until } from '../base/deadline.ts';
import { type ErrorCode, errnoOf, messageOf, QmpvaultError } from '../base/errors.ts';
import { isAlive, type ProcessId, parseProcessId } from './process-id.ts';

/** Less than the two seconds in which a writer must be given up. */
const DEATH_MS = 1_500;

/**
 * The shell writes down which process it is, and then becomes the program: at no moment does one live that nobody
 * could find. $0 is the folder; `set --` splits the fields of /proc/PID/stat behind the name.
 */
const NOTE = `
read -r stat </proc/$$/stat && read -r boot </proc/sys/kernel/random/boot_id || exit
start=$(set -- \${stat##*) }; shift 19; echo "$1")
echo "$$ $start $boot" >"$0/pid" || exit
`;
const EXEC = 'exec "$@"';
/** Its mounts go with it, also when it is killed. Where that is forbidden it goes without. */
const EXEC_WITH_OWN_MOUNTS = `
unshare --mount --propagation slave true 2>/dev/null && exec unshare --mount --propagation slave -- "$@"
${EXEC}`;

/**
 * Starts a program in a session of its own, with `dir/log` for its output and `dir/pid` saying who it is.
 * @throws `code`
 */
export async function startDetached(
  dir: string,
  command: readonly string[],
  {
    env = {},
    code = 'internal',
    ownMounts = false,
  }: { env?: NodeJS.ProcessEnv; code?: ErrorCode; ownMounts?: boolean } = {},
): Promise<ChildProcess> {
  await using log = await open(join(dir, 'log'), 'a', 0o600);
  try {
    const child = spawn(
      '/bin/sh',
      ['-c', NOTE + (ownMounts ? EXEC_WITH_OWN_MOUNTS : EXEC), dir, ...command],
      {
        detached: true,
        // Not ours: what we stand in may have to be unmounted while it lives.
        cwd: '/',
        env: { ...process.env, ...env },
        stdio: ['ignore', log.fd, log.fd],
      },
    );
    await once(child, 'spawn');
    child.unref();
    return child;
  } catch (cause) {
    throw new QmpvaultError(code, `cannot start ${command[0]}: ${messageOf(cause)}`, { cause });
  }
}

export type TalkingProcess = ChildProcessByStdio<Writable, Readable, null>;

/**
 * Starts a program that is talked to over its stdin and stdout, and that ends when its stdin does. In a session of its
 * own, so that a terminal's Ctrl-C is ours alone to heed. @throws internal
 */
export async function startTalking(command: readonly [string, ...string[]]): Promise<TalkingProcess> {
  const [program, ...args] = command;
  try {
    const child = spawn(program, args, {
      detached: true,
      cwd: '/',
      env: { ...process.env, NODE_OPTIONS: '' },
      stdio: ['pipe', 'pipe', 'ignore'],
    });
    await once(child, 'spawn');
    // EPIPE: it has gone; that its answer does not come tells.
    child.stdin.on('error', () => {});
    return child;
  } catch (cause) {
    throw new QmpvaultError('internal', `cannot start ${program}: ${messageOf(cause)}`, { cause });
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

/**
 * SIGKILL. Returns when it is dead, and within two seconds also when it hangs in the kernel and cannot die yet.
 * @returns whether it is dead
 */
export async function kill(id: ProcessId): Promise<boolean> {
  if (!(await isAlive(id))) return true;
  try {
    process.kill(id.pid, 'SIGKILL');
    await until(async () => ((await isAlive(id)) ? undefined : true), {
      timeoutMs: DEATH_MS,
      what: 'its end',
    });
    return true;
  } catch {
    // It has gone by itself meanwhile, or hangs in the kernel: it will do no more than end.
    return !(await isAlive(id));
  }
}

/** Whether the process that was started in this folder lives; null if none was started there yet. */
export async function isAliveIn(dir: string): Promise<boolean | null> {
  const id = await processIn(dir);
  return id === null ? null : isAlive(id);
}
