/**
 * From a VM's name to the sockets of its QEMU: what the command line of the running QEMU says; else whoever answers to
 * that name on one of the sockets to be discovered.
 */
import { glob, stat } from 'node:fs/promises';
import { codeOf, messageOf, QmpvaultError } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import { runningVms } from './command-line.ts';
import { identify } from './identity.ts';

export interface RunningSockets {
  /** undefined: it does not run on this host. */
  readonly qmp?: string | undefined;
  readonly agent?: string | undefined;
}

interface Search {
  /** Patterns of sockets. */
  readonly discover?: readonly string[] | undefined;
  readonly log: Log;
  readonly signal?: AbortSignal | undefined;
}

const DISCOVER = ['/run/qemu/*.qmp', '/run/qmpvault/vms/*.qmp'];

/**
 * @throws vm-unreachable for one that runs and has no socket for us; vm-state when two run; vm-busy when others hold each
 *   of its sockets; cancelled
 */
export async function findRunning(name: string, search: Search): Promise<RunningSockets> {
  const running = (await runningVms()).filter((vm) => vm.name === name);
  const pids = running.map((vm) => vm.pid);
  const [pid] = pids;
  // The one would be stored as the other. A program that started it and waits for it has the same words.
  if (new Set(running.map(({ qmp }) => qmp.join())).size > 1) {
    throw new QmpvaultError(
      'vm-state',
      `more than one QEMU called ${name} runs (processes ${pids.join(', ')}): end what is not it, or name the socket of the right one in the configuration`,
      { details: { vm: name, pids } },
    );
  }
  const sockets = running.flatMap(({ qmp }) => qmp);
  const found = await firstOf(name, sockets, search);
  if (found !== null) {
    return { qmp: found, agent: running.find(({ qmp }) => qmp.includes(found))?.agent ?? undefined };
  }
  if (pid !== undefined) {
    throw new QmpvaultError(
      'vm-unreachable',
      `${name} runs (process ${pid}) and has no QMP socket for qmpvault: give it one of its own, with qemu:commandline in its domain, or name it in the configuration`,
      { details: { vm: name, pid } },
    );
  }
  return { qmp: (await firstOf(name, await socketsOf(search), search)) ?? undefined };
}

async function socketsOf({ discover = [] }: Search): Promise<string[]> {
  const sockets: string[] = [];
  for await (const path of glob([...(discover.length === 0 ? DISCOVER : discover)])) {
    if ((await stat(path).catch(() => null))?.isSocket()) sockets.push(path);
  }
  return sockets.toSorted();
}

/** The first that answers, and to this name. One that somebody else holds says nothing. */
async function firstOf(
  name: string,
  sockets: readonly string[],
  { log, signal }: Search,
): Promise<string | null> {
  let busy: unknown;
  for (const socket of sockets) {
    try {
      if ((await identify(socket, { signal })).name === name) return socket;
    } catch (error) {
      if (codeOf(error) === 'cancelled' || codeOf(error) === 'qmp-aborted') throw error;
      if (codeOf(error) === 'vm-busy') busy ??= error;
      log.info({ socket, code: codeOf(error) }, messageOf(error));
    }
  }
  if (busy !== undefined) throw busy;
  return null;
}
