/** The daemon as a process of its own, with a client connected to it. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { execa } from 'execa';
import { stringify } from 'yaml';
import type { Engine } from '../../src/backup/engine.ts';
import { until } from '../../src/base/deadline.ts';
import { codeOf } from '../../src/base/errors.ts';
import { RpcClient } from '../../src/rpc/client.ts';
import type { MethodParams } from '../../src/rpc/methods.ts';
import type { Run } from '../../src/rpc/run.ts';
import { QMPVAULT } from './programs.ts';
import type { Teardown } from './temp-dir.ts';

/** What of a test's site the daemon is told. */
interface DaemonSite {
  readonly dir: string;
  readonly vault: { readonly path: string };
  readonly engine: Pick<Engine, 'stateDir' | 'runtimeDir' | 'scratchDir'>;
}

export interface TestDaemon {
  readonly process: ReturnType<typeof spawnDaemon>['process'];
  readonly client: RpcClient;
  readonly socket: string;
  readonly configFile: string;
  /** Starts a run and waits for its end. */
  backUp(wish: MethodParams<'backup.start'>): Promise<Run>;
}

/** What its configuration says beside the vault `nas`, the site's scratch and its socket. */
export interface DaemonWishes {
  readonly config?: object;
  readonly env?: Record<string, string>;
  readonly args?: readonly string[];
  /** Node's arguments up to the program. Default: the source. */
  readonly program?: readonly string[];
}

export function writeConfig(site: DaemonSite, config: object = {}): string {
  const file = join(site.dir, 'config.yaml');
  const basis = {
    vaults: { nas: { path: site.vault.path } },
    scratch: { path: site.engine.scratchDir },
    rpc: { socket: join(site.dir, 'rpc.sock') },
  };
  writeFileSync(file, stringify({ ...basis, ...config }));
  return file;
}

/** Starts it without waiting for anything; killed when the test ends, with all that it started. */
export function spawnDaemon(
  t: Teardown,
  site: DaemonSite,
  { config, env, args = [], program = [QMPVAULT] }: DaemonWishes = {},
) {
  const configFile = writeConfig(site, config);
  const process_ = execa(process.execPath, [...program, 'serve', '--config', configFile, ...args], {
    reject: false,
    stdin: 'ignore',
    env: {
      QMPVAULT_STATE_DIR: site.engine.stateDir,
      QMPVAULT_RUNTIME_DIR: site.engine.runtimeDir,
      QMPVAULT_QEMU_BIN: '',
      ...env,
    },
  });
  t.teardown(async () => {
    process_.kill('SIGKILL');
    await process_;
  });
  return { process: process_, configFile, socket: join(site.dir, 'rpc.sock') };
}

export async function startDaemon(
  t: Teardown,
  site: DaemonSite,
  wishes: DaemonWishes = {},
): Promise<TestDaemon> {
  const daemon = spawnDaemon(t, site, wishes);
  const client = await connect(daemon.socket);
  t.teardown(() => client.close());
  return {
    ...daemon,
    client,
    backUp: async (wish) => {
      const { runId } = await client.call('backup.start', wish);
      return client.call('run.wait', { runId });
    },
  };
}

export function connect(socket: string): Promise<RpcClient> {
  const tryIt = async () => {
    try {
      const client = await RpcClient.connect(socket);
      // One that is being killed still accepts, but does not answer.
      await client.call('daemon.status', {});
      return client;
    } catch (error) {
      if (!['daemon-unreachable', 'daemon-lost'].includes(codeOf(error))) throw error;
      return undefined;
    }
  };
  return until(tryIt, { what: `the daemon on ${socket}`, timeoutMs: 60_000, everyMs: 20 });
}
