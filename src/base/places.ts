/** Where things are kept on this host. */
import { homedir } from 'node:os';
import { isAbsolute, join, resolve } from 'node:path';

export const CONFIG_FILE = '/etc/qmpvault/config.yaml';

export interface Places {
  readonly stateDir: string;
  readonly runtimeDir: string;
  readonly scratchDir: string;
}

/** The system's folders for root, else those of the XDG base directory specification; each can be overridden. */
export function placesFrom(env: NodeJS.ProcessEnv, isRoot: boolean): Places {
  const stateDir =
    ours(env, 'QMPVAULT_STATE_DIR') ?? (isRoot ? '/var/lib/qmpvault' : join(userState(env), 'qmpvault'));
  const runtime = xdg(env, 'XDG_RUNTIME_DIR');
  return {
    stateDir,
    runtimeDir:
      ours(env, 'QMPVAULT_RUNTIME_DIR') ??
      // Without a session there is no runtime folder; one in /tmp could be somebody else's.
      (isRoot ? '/run/qmpvault' : runtime ? join(runtime, 'qmpvault') : join(stateDir, 'run')),
    scratchDir: ours(env, 'QMPVAULT_SCRATCH_DIR') ?? join(stateDir, 'scratch'),
  };
}

function userState(env: NodeJS.ProcessEnv): string {
  return xdg(env, 'XDG_STATE_HOME') ?? join(env['HOME'] || homedir(), '.local', 'state');
}

function ours(env: NodeJS.ProcessEnv, name: string): string | undefined {
  return env[name] ? resolve(env[name]) : undefined;
}

/** The specification: a relative path is invalid and to be ignored. */
function xdg(env: NodeJS.ProcessEnv, name: string): string | undefined {
  const path = env[name];
  return path && isAbsolute(path) ? path : undefined;
}
