/**
 * From an instance's name to the sockets of its QEMU: what the configuration says; else what the daemon knows; else what
 * the command line of the running QEMU says; else whoever answers to that name on one of the sockets to be discovered.
 */
import { glob, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { codeOf, messageOf, QmpvaultError } from '../base/errors.ts';
import type { Config } from '../config/config.ts';
import { readConfig } from '../config/read-config.ts';
import { RpcClient } from '../rpc/client.ts';
import { runningVms } from '../vm/command-line.ts';
import { identify } from '../vm/identity.ts';
import type { Site } from './site.ts';

export interface Instance {
  /** undefined: it does not run on this host. */
  readonly qmp?: string | undefined;
  readonly agent?: string | undefined;
}

/**
 * @throws vm-unreachable for one that runs and has no socket for us; vm-busy when others hold each of them;
 *   config-invalid, cancelled
 */
export async function findInstance(name: string, site: Site): Promise<Instance> {
  const config = await configOf(site);
  const configured = config?.vms.find((vm) => vm.name === name);
  if (configured?.qmp) return { qmp: configured.qmp, agent: configured.agent ?? undefined };
  const known = await askDaemon(name, config?.rpc.socket ?? join(site.engine.runtimeDir, 'rpc.sock'), site);
  if (known !== null) return known;
  const running = (await runningVms()).filter((vm) => vm.name === name);
  const sockets = running.flatMap(({ qmp }) => qmp);
  const found = await firstOf(name, sockets, site);
  if (found !== null) {
    return { qmp: found, agent: running.find(({ qmp }) => qmp.includes(found))?.agent ?? undefined };
  }
  const pid = running[0]?.pid;
  if (pid !== undefined) {
    throw new QmpvaultError(
      'vm-unreachable',
      `${name} runs (process ${pid}) and has no QMP socket for qmpvault: give it one of its own, with qemu:commandline in its domain, or name it in ${site.configFile}`,
      { details: { vm: name, pid } },
    );
  }
  const discovered = await socketsOf(config);
  return { qmp: (await firstOf(name, discovered, site)) ?? undefined };
}

async function configOf({ configFile, engine }: Site): Promise<Config | null> {
  if ((await stat(configFile).catch(() => null)) === null) return null;
  const { config } = await readConfig(configFile);
  engine.log.debug({ configFile }, 'the configuration was read');
  return config;
}

const DAEMON_MS = 5_000;

/** A VM that was added to it over RPC, or that it discovered. One that it takes for stopped may run all the same. */
async function askDaemon(name: string, socket: string, { engine, signal }: Site): Promise<Instance | null> {
  try {
    await using daemon = await RpcClient.connect(socket, { signal, timeoutMs: DAEMON_MS });
    const { vms } = await daemon.call('vm.list', {}, { signal, timeoutMs: DAEMON_MS });
    const vm = vms.find((vm) => vm.name === name && vm.state === 'running');
    return vm?.qmp ? { qmp: vm.qmp, agent: vm.agent ?? undefined } : null;
  } catch (error) {
    if (signal.aborted) throw error;
    engine.log.debug({ socket, code: codeOf(error) }, messageOf(error));
    return null;
  }
}

const DISCOVER = ['/run/qemu/*.qmp', '/run/qmpvault/vms/*.qmp'];

async function socketsOf(config: Config | null): Promise<string[]> {
  const sockets: string[] = [];
  const patterns = config === null || config.discover.length === 0 ? DISCOVER : config.discover;
  for await (const path of glob([...patterns])) {
    if ((await stat(path).catch(() => null))?.isSocket()) sockets.push(path);
  }
  return sockets.toSorted();
}

/** The first that answers, and to this name. One that somebody else holds says nothing. */
async function firstOf(
  name: string,
  sockets: readonly string[],
  { engine, signal }: Site,
): Promise<string | null> {
  let busy: unknown;
  for (const socket of sockets) {
    try {
      if ((await identify(socket, { signal })).name === name) return socket;
    } catch (error) {
      if (codeOf(error) === 'cancelled' || codeOf(error) === 'qmp-aborted') throw error;
      if (codeOf(error) === 'vm-busy') busy ??= error;
      engine.log.info({ socket, code: codeOf(error) }, messageOf(error));
    }
  }
  if (busy !== undefined) throw busy;
  return null;
}
