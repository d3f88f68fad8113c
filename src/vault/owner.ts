/**
 * Who holds a lease or reads, and whether that process can be proved dead. A proof is possible only in the same
 * boot and the same pid namespace: two containers of one host share the boot id, and each has its own pid 7.
 */
import { readFileSync, readlinkSync } from 'node:fs';
import { hostname } from 'node:os';
import { z } from 'zod';
import { isErrno } from './io-error.ts';

export const ownerSchema = z.object({
  host: z.string(),
  machineId: z.string().nullable(),
  bootId: z.string(),
  pidNamespace: z.string(),
  pid: z.int().positive(),
  /** In clock ticks since boot; tells a process from a later one with its pid. */
  startTime: z.string(),
});

export type Owner = z.output<typeof ownerSchema>;

/**
 * - `alive`, `dead`: proved.
 * - `rebooted`: the same machine by its id and name, in another boot. Hosts cloned from one template look so too,
 *   so this counts only together with a term that passed.
 * - `elsewhere`: nothing can be said from here.
 */
export type Standing = 'alive' | 'dead' | 'rebooted' | 'elsewhere';

let self: Owner | undefined;

export function thisProcess(): Owner {
  self ??= {
    host: hostname(),
    machineId: readMachineId(),
    bootId: readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim(),
    pidNamespace: readlinkSync('/proc/self/ns/pid'),
    pid: process.pid,
    startTime: statOf(process.pid)?.startTime ?? '',
  };
  return self;
}

export function standingOf(owner: Owner): Standing {
  const me = thisProcess();
  if (owner.bootId !== me.bootId) {
    const sameMachine = me.machineId !== null && owner.machineId === me.machineId && owner.host === me.host;
    return sameMachine ? 'rebooted' : 'elsewhere';
  }
  if (owner.pidNamespace !== me.pidNamespace) return 'elsewhere';
  try {
    process.kill(owner.pid, 0);
  } catch (error) {
    if (isErrno(error, 'ESRCH')) return 'dead';
  }
  // Unreadable where /proc is mounted with hidepid: then the pid is in use, by whom is unknown.
  const stat = statOf(owner.pid);
  if (stat === null) return 'alive';
  if (stat.startTime !== owner.startTime || stat.state === 'X') return 'dead';
  // A zombie holds its pid and does nothing any more, unless one of its threads still hangs in the kernel, writing.
  return stat.state === 'Z' && stat.threads <= 1 ? 'dead' : 'alive';
}

/** Fields 3, 20 and 22 of proc(5) stat; field 2, the command, may hold blanks and parentheses. */
function statOf(
  pid: number,
): { state: string | undefined; threads: number; startTime: string | undefined } | null {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'latin1');
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
    return { state: fields[0], threads: Number(fields[17]), startTime: fields[19] };
  } catch {
    return null;
  }
}

function readMachineId(): string | null {
  try {
    return readFileSync('/etc/machine-id', 'utf8').trim() || null;
  } catch {
    return null;
  }
}
