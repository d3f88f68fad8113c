/** What the command line takes from the process it runs in; tests give it another one. */
import type { EventEmitter } from 'node:events';
import type { Writable } from 'node:stream';
import type { Log, LogLevel } from '../base/log.ts';

export interface Surroundings {
  readonly env: NodeJS.ProcessEnv;
  readonly isRoot: boolean;
  readonly stdout: Writable;
  readonly stderr: Writable & { readonly isTTY?: boolean };
  /** Emits SIGINT and SIGTERM. */
  readonly signals: EventEmitter;
  readonly openLog: (level: LogLevel) => Log;
}
