/**
 * Telling a process that still lives from another that got its number later: a pid alone comes round again,
 * together with the start time and the boot it does not (proc(5)).
 */
import { readFile } from 'node:fs/promises';

export interface ProcessId {
  readonly pid: number;
  /** Field 22 of /proc/PID/stat: clock ticks since boot. */
  readonly startTime: number;
  readonly bootId: string;
}

/**
 * Who `pid` is now; null if no such process lives. A zombie does not: it can do no more harm. But the first thread
 * of a killed process turns into one while another still sleeps in the kernel, in the middle of a write (m).
 */
export async function describe(pid: number): Promise<ProcessId | null> {
  const [stat, bootId] = await Promise.all([readStat(pid), readBootId()]);
  return stat === null ? null : { pid, startTime: stat.startTime, bootId };
}

export async function isAlive(id: ProcessId): Promise<boolean> {
  const now = await describe(id.pid);
  return now !== null && now.startTime === id.startTime && now.bootId === id.bootId;
}

/** A ProcessId read back from a file; null when it is none. */
export function parseProcessId(text: string): ProcessId | null {
  const match = /^(\d+) (\d+) ([0-9a-f-]{36})\n$/.exec(text);
  const [, pid, startTime, bootId] = match ?? [];
  if (pid === undefined || startTime === undefined || bootId === undefined) return null;
  return { pid: Number(pid), startTime: Number(startTime), bootId };
}

async function readStat(pid: number): Promise<{ startTime: number } | null> {
  let text: string;
  try {
    text = await readFile(`/proc/${pid}/stat`, 'latin1');
  } catch {
    return null;
  }
  // `pid (comm) state ppid ...`: comm may hold spaces and brackets itself, the last bracket ends it.
  const [state, ...fields] = text.slice(text.lastIndexOf(')') + 2).split(' ');
  const threads = Number(fields[16]);
  const startTime = Number(fields[18]);
  const ended = state === undefined || ('ZXx'.includes(state) && threads <= 1);
  return ended || !Number.isSafeInteger(startTime) ? null : { startTime };
}

async function readBootId(): Promise<string> {
  return (await readFile('/proc/sys/kernel/random/boot_id', 'latin1')).trim();
}
