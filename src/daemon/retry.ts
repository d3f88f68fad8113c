/**
 * What becomes of a run that failed: whether another attempt may help, and when. Only what the daemon began by itself is
 * tried again; who asked for a run hears at once why it failed, and decides (decision 26). Pure.
 */
import { createHash } from 'node:crypto';
import type { ErrorCode } from '../base/errors.ts';
import type { RetryConfig } from '../config/config.ts';
import type { RunError, RunEvent, RunRecord } from './run-record.ts';

/** What may pass by itself. All else stays wrong until somebody does something, or another attempt would do harm. */
const PASSING: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  // The VM is being restarted or migrated, somebody else is at its socket or its disks, its agent is not there yet.
  'vm-unreachable',
  'vm-busy',
  'vm-state',
  'vm-agent',
  'vm-nbd-taken',
  'vm-lost',
  'vm-left-unclean',
  'run-overtaken',
  'guard-failed',
  'qmp-connect',
  'qmp-no-greeting',
  'qmp-outcome-unknown',
  'qmp-closed',
  'qmp-timeout',
  'qmp-agent',
  // The NAS is away, hangs, or answered with an error.
  'vault-away',
  'vault-locked',
  'vault-unreadable',
  'lease-lost',
  'run-failed',
  'run-stalled',
  'qmp-job',
  'writer-failed',
  'image-tool-failed',
  'sync-failed',
  // Other runs use it too.
  'scratch-full',
]);

const CANCELLED: readonly ErrorCode[] = ['cancelled', 'qmp-aborted'];
/** Of workers that died of themselves, whoever asked for the run. */
const LOSSES_MAX = 3;

export function mayPass(code: ErrorCode): boolean {
  return PASSING.has(code);
}

/** The event for an attempt that ended with an error. */
export function afterFailure(
  record: RunRecord,
  error: RunError,
  retries: RetryConfig,
  now: Date,
): Extract<RunEvent, { type: 'failed' | 'stopped' | 'postponed' }> {
  if (CANCELLED.includes(error.code)) return { type: 'stopped', error };
  const isTriedAgain =
    record.cause !== 'requested' && mayPass(error.code) && record.attempts < retries.attempts;
  if (!isTriedAgain) return { type: 'failed', error };
  const notBefore = new Date(now.getTime() + delayMs(record, retries)).toISOString();
  return { type: 'postponed', error, notBefore };
}

/** The event for a worker that died and left no outcome: the engine finishes or clears up what it had begun. */
export function afterLoss(
  record: RunRecord,
  error: RunError,
): Extract<RunEvent, { type: 'failed' | 'lost' }> {
  const isOver = record.state !== 'cancelling' && record.attempts >= LOSSES_MAX;
  return !isOver ? { type: 'lost', error } : { type: 'failed', error };
}

/** Twice as long each time, and up to a quarter less, so that VMs that failed together do not come back together. */
function delayMs({ id, attempts }: RunRecord, { firstMs, longestMs }: RetryConfig): number {
  const fraction = createHash('sha256').update(`${id} ${attempts}`).digest().readUInt32BE() / 2 ** 32;
  return Math.round(Math.min(firstMs * 2 ** (attempts - 1), longestMs) * (1 - fraction / 4));
}
