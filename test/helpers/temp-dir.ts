/** Temporary folders that leave nothing behind: neither files nor processes. */
import { mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** The part of tap's `t` that the helpers need. */
export interface Teardown {
  teardown(undo: () => unknown): unknown;
}

/**
 * A folder under /tmp, short enough for unix sockets. At the end of the test whatever process still mentions it
 * (writers and guards are detached and outlive their engine) is killed, by pid, and the folder removed.
 */
export function tempDir(t: Teardown): string {
  const dir = mkdtempSync(join(tmpdir(), 'qv-'));
  t.teardown(() => {
    killProcessesIn(dir);
    rmSync(dir, { recursive: true, force: true, maxRetries: 5 });
  });
  return dir;
}

/** One look may miss a process that is just being started; one that sleeps in the kernel stays for all of them. */
const LOOKS = 10;

/** SIGKILL also ends a process that a test has stopped with SIGSTOP. */
export function killProcessesIn(dir: string): void {
  for (let look = 0; look < LOOKS; look += 1) {
    const found = processesIn(dir);
    if (found.length === 0) return;
    for (const { pid } of found) signalIfThere(pid, 'SIGKILL');
  }
}

export interface FoundProcess {
  readonly pid: number;
  readonly command: string;
}

/** The processes with this folder in their arguments, environment or working directory; not this one. */
export function processesIn(dir: string): FoundProcess[] {
  return readdirSync('/proc').flatMap((entry) => {
    const pid = Number(entry);
    if (!Number.isInteger(pid) || pid === process.pid) return [];
    try {
      const command = readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ').trim();
      const about = [command, readFileSync(`/proc/${pid}/environ`, 'utf8'), readlinkSync(`/proc/${pid}/cwd`)];
      return command !== '' && about.some((text) => text.includes(dir)) ? [{ pid, command }] : [];
    } catch {
      return []; // it ended meanwhile, or belongs to somebody else
    }
  });
}

/** Signals a process that may have ended already. */
export function signalIfThere(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}
