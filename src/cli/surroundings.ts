/** What the command line takes from the process it runs in; tests give it another one. */
import type { EventEmitter } from 'node:events';
import type { Writable } from 'node:stream';
import type { Log, LogLevel } from '../base/log.ts';
import type { ReachStep } from '../base/steps.ts';

export interface Surroundings {
  readonly env: NodeJS.ProcessEnv;
  readonly isRoot: boolean;
  readonly stdout: Writable;
  readonly stderr: Writable & { readonly isTTY?: boolean };
  /** Emits SIGINT and SIGTERM. */
  readonly signals: EventEmitter;
  readonly openLog: (level: LogLevel) => Log;
  /** Is the daemon until it is told to end. */
  readonly serve: (wishes: DaemonWishes) => Promise<void>;
}

export interface DaemonWishes {
  readonly configFile: string;
  /** How long running work may take to end. */
  readonly graceMs: number;
  readonly stateDir: string;
  readonly runtimeDir: string;
  readonly qemuBin: string | null;
  readonly reachStep: ReachStep;
  /** Aborted: it is told to end. */
  readonly signal: AbortSignal;
}
