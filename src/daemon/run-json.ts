/** A run as the daemon tells of it. */
import type { Run, RunProgress } from '../rpc/run.ts';
import type { RunRecord } from './run-record.ts';

export interface RunView {
  /** With rates, while it is at work; else what its record says. */
  readonly progress?: RunProgress | null;
  readonly waitingFor?: string | null;
  /** A list of many runs is told without what each of them ended with. */
  readonly withResult?: boolean;
}

export function runJson(
  record: RunRecord,
  { progress = null, waitingFor = null, withResult = true }: RunView = {},
): Run {
  const { id, what, vm, vault, state, cause, requestId, attempts, notBefore, point, error, result } = record;
  return {
    id,
    // Only kinds of work that the RPC knows become runs.
    what: what as Run['what'],
    vm,
    vault,
    state,
    ...(state === 'queued' && waitingFor !== null && { waitingFor }),
    cause,
    requestId,
    attempts,
    notBefore,
    progress: progress ?? withoutRates(record),
    ...(point !== null && { point }),
    ...(withResult && state === 'succeeded' && { result: result as Record<string, unknown> }),
    ...(error !== null && { error }),
    warnings: record.warnings,
    createdAt: record.createdAt,
    startedAt: record.startedAt,
    endedAt: record.endedAt,
  };
}

function withoutRates({ progress }: RunRecord): RunProgress | null {
  if (progress === null) return null;
  const { phase, disks } = progress;
  const unknown = { bytesPerSecond: null, leftMs: null };
  return {
    phase,
    doneBytes: disks.reduce((sum, { doneBytes }) => sum + doneBytes, 0),
    totalBytes: disks.reduce((sum, { totalBytes }) => sum + totalBytes, 0),
    ...unknown,
    disks: disks.map((disk) => ({ ...disk, phase, ...unknown })),
  };
}
