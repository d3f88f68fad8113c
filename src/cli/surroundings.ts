/** What the command line takes from the process it runs in; tests give it another one. */
import type { EventEmitter } from 'node:events';
import type { Writable } from 'node:stream';
import type { Log } from '../base/log.ts';

export const LOG_LEVELS = ['silent', 'error', 'warn', 'info', 'debug'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

export interface Surroundings {
  readonly env: NodeJS.ProcessEnv;
  readonly isRoot: boolean;
  readonly stdout: Writable;
  readonly stderr: Writable & { readonly isTTY?: boolean };
  /** Emits SIGINT and SIGTERM. */
  readonly signals: EventEmitter;
  readonly openLog: (level: LogLevel) => Log;
}
