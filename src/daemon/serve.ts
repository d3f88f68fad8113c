/** The daemon as a process: from its start to the signal that ends it. */
import type { EventEmitter } from 'node:events';
import { codeOf, messageOf } from '../base/errors.ts';
import { Daemon, type DaemonOptions } from './daemon.ts';

export interface ServeOptions extends DaemonOptions {
  readonly graceMs: number;
  /** Emits SIGTERM, SIGINT and SIGHUP. */
  readonly signals: EventEmitter;
  /** Aborted by SIGTERM or SIGINT. */
  readonly signal: AbortSignal;
}

/** Resolves when it was told to end and has. @throws what kept it from starting */
export async function serve({ graceMs, signals, signal, ...options }: ServeOptions): Promise<void> {
  const { log } = options;
  const daemon = await Daemon.start(options);
  const reload = () => {
    // Why it was refused is in the log and in daemon.status.
    daemon.reload().catch(() => {});
  };
  signals.on('SIGHUP', reload);
  try {
    log.info({ config: options.configFile, pid: process.pid }, 'the daemon is at work');
    const { promise, resolve } = Promise.withResolvers<void>();
    signal.addEventListener('abort', () => resolve(), { once: true });
    if (!signal.aborted) await promise;
    log.info({ graceMs }, 'the daemon is being stopped');
  } finally {
    await daemon.stop(graceMs).catch((error: unknown) => {
      log.warn({ code: codeOf(error) }, messageOf(error));
    });
    signals.off('SIGHUP', reload);
  }
}
