/**
 * The first connection to the monitor of a QEMU program that was just started.
 *
 * Whoever connects while the monitor is being set up may be greeted twice, and what he said in between is not answered
 * (m: 7.2, 5 of 1200 starts); or the program dies of SIGSEGV (m: 7.2's storage daemon on a busy host, after 60 starts, and
 * not in 1200 others). It has done nothing by then, and is started again.
 */
import type { ChildProcess } from 'node:child_process';
import { QmpClient } from '../../qmp/index.ts';
import { until } from '../base/deadline.ts';
import { type ErrorCode, QmpvaultError } from '../base/errors.ts';
import { socketPath } from '../base/ids.ts';

const STARTS = 3;
/** Before connecting again while it starts: twice as long each time, since a busy host may start nothing sooner. */
const GREETING_MS = { first: 150, most: 1_200 };

export interface MonitorOptions {
  /** Of its socket. */
  readonly path: string;
  readonly child: Pick<ChildProcess, 'exitCode' | 'signalCode'>;
  /** Its name, for the message. */
  readonly program: string;
  readonly code: ErrorCode;
  readonly timeoutMs: number;
  readonly signal?: AbortSignal | undefined;
}

/** It ended by a signal of its own making. */
class ProgramCrashed extends QmpvaultError {}

/** The arguments of a storage daemon for its monitor. @throws path-too-long */
export function monitorArgs(socket: string): string[] {
  // In a QemuOpts value a comma is doubled.
  const path = socketPath(socket).replaceAll(',', ',,');
  return ['--chardev', `socket,id=qmp,path=${path},server=on,wait=off`, '--monitor', 'chardev=qmp'];
}

/** @param start starts a program and connects to its monitor, or leaves nothing */
export async function unlessItCrashes<T>(start: () => Promise<T>): Promise<T> {
  for (let left = STARTS; ; left -= 1) {
    try {
      return await start();
    } catch (error) {
      if (!(error instanceof ProgramCrashed) || left === 1) throw error;
    }
  }
}

/** @throws `code` when it ended or does not answer in time, cancelled */
export function connectMonitor(options: MonitorOptions): Promise<QmpClient> {
  const { path, program, code, timeoutMs, signal } = options;
  const what = `the socket ${path} of ${program}`;
  let greetingMs = GREETING_MS.first;
  const connect = async () => {
    const began = performance.now();
    const client = await connectOnceReady(options, greetingMs);
    // Not where there was no socket yet.
    if (performance.now() - began >= greetingMs) greetingMs = Math.min(2 * greetingMs, GREETING_MS.most);
    return client;
  };
  return until(connect, { signal, timeoutMs, what, code });
}

/** Undefined while it is still starting. */
async function connectOnceReady(options: MonitorOptions, greetingMs: number): Promise<QmpClient | undefined> {
  const { path, child, program, code, signal } = options;
  let client: QmpClient | undefined;
  try {
    client = await QmpClient.connect({ path, greetingTimeoutMs: greetingMs, signal });
    await client.execute('query-version', {}, { timeoutMs: greetingMs, signal });
    return client;
  } catch {
    await client?.close();
    if (child.exitCode === null && child.signalCode === null) return undefined;
    const how = child.signalCode ?? `exit code ${child.exitCode}`;
    const hasCrashed = child.signalCode === 'SIGSEGV' || child.signalCode === 'SIGABRT';
    throw new (hasCrashed ? ProgramCrashed : QmpvaultError)(code, `${program} ended with ${how}`);
  }
}
