/** The first connection to the monitor of a QEMU program that was just started. */
import type { ChildProcess } from 'node:child_process';
import { QmpClient } from '../../qmp/index.ts';
import { until } from '../base/deadline.ts';
import { type ErrorCode, QmpvaultError } from '../base/errors.ts';

/** Before connecting again while it starts. */
const GREETING_MS = 1_000;

export interface MonitorOptions {
  /** Of its socket. */
  readonly path: string;
  readonly child: ChildProcess;
  /** Its name, for the message. */
  readonly program: string;
  readonly code: ErrorCode;
  readonly timeoutMs: number;
  readonly signal?: AbortSignal | undefined;
}

/** @throws `code` when it ended or does not answer in time, cancelled */
export function connectMonitor(options: MonitorOptions): Promise<QmpClient> {
  const { path, program, code, timeoutMs, signal } = options;
  const what = `the socket ${path} of ${program}`;
  return until(() => connectOnceReady(options), { signal, timeoutMs, what, code });
}

/**
 * Undefined while it is still starting. Whoever connects while its monitor is being set up may be greeted twice, and
 * what he said in between is not answered (m: 7.2 on a busy host).
 */
async function connectOnceReady(options: MonitorOptions): Promise<QmpClient | undefined> {
  const { path, child, program, code, signal } = options;
  let client: QmpClient | undefined;
  try {
    client = await QmpClient.connect({ path, greetingTimeoutMs: GREETING_MS, signal });
    await client.execute('query-version', {}, { timeoutMs: GREETING_MS, signal });
    return client;
  } catch {
    await client?.close();
    if (child.exitCode === null && child.signalCode === null) return undefined;
    const how = child.signalCode ?? `exit code ${child.exitCode}`;
    throw new QmpvaultError(code, `${program} ended with ${how}`);
  }
}
