/**
 * Which of the waiting runs may begin now, and in words why the others may not. Pure: the caller asks again when a run has
 * ended, one was added, the configuration changed, or `again` has come.
 */
import type { RunId } from '../base/ids.ts';
import type { Limits, VmSettings } from '../config/config.ts';
import { blackoutAt } from './blackout.ts';
import type { RunRecord } from './run-record.ts';

export interface QueueSite {
  readonly limits: Pick<Limits, 'runs' | 'perVault'>;
  /** Of a VM; the defaults for one that the configuration does not have. */
  readonly settingsOf: (run: RunRecord) => Pick<VmSettings, 'blackout' | 'timeZone' | 'retries'>;
  readonly now: Date;
}

export interface Admission {
  readonly start: readonly RunRecord[];
  /** Why it waits, as `run.get` tells it. */
  readonly waiting: ReadonlyMap<RunId, string>;
  /** Those that were to wait no longer than this, and for what they waited. */
  readonly expired: ReadonlyMap<RunId, string>;
  /** When time alone may let another one begin, or end. */
  readonly again: Date | null;
}

/** @param runs those that have not ended */
export function admit(runs: readonly RunRecord[], { limits, settingsOf, now }: QueueSite): Admission {
  const busy = runs.filter(({ state }) => state !== 'queued');
  const start: RunRecord[] = [];
  const waiting = new Map<RunId, string>();
  const expired = new Map<RunId, string>();
  const times: Date[] = [];
  for (const run of runs.filter(({ state }) => state === 'queued').toSorted(byPriority)) {
    const obstacle = obstacleIn(run, settingsOf(run), now) ?? obstacleAmong(run, [...busy, ...start], limits);
    if (obstacle === null) {
      start.push(run);
      continue;
    }
    const patience = patienceOf(run, now);
    if (patience !== null && patience <= now) expired.set(run.id, obstacle.why);
    else waiting.set(run.id, obstacle.why);
    for (const time of [obstacle.until, patience]) if (time && time > now) times.push(time);
  }
  return {
    start,
    waiting,
    expired,
    again: times.length === 0 ? null : new Date(Math.min(...times.map(Number))),
  };
}

/** Until when it may wait to begin first; null: without an end. The clock may have been put back since it was asked for. */
function patienceOf({ createdAt, params, attempts }: RunRecord, now: Date): Date | null {
  const { waitMs } = params;
  if (typeof waitMs !== 'number' || attempts > 0) return null;
  return new Date(Math.min(Date.parse(createdAt), now.getTime()) + waitMs);
}

interface Obstacle {
  readonly why: string;
  readonly until?: Date | null;
}

/** What somebody waits for goes first. */
function byPriority(a: RunRecord, b: RunRecord): number {
  const isLater = (run: RunRecord) => (run.cause === 'requested' ? 0 : 1);
  return isLater(a) - isLater(b) || a.createdAt.localeCompare(b.createdAt);
}

function obstacleIn(
  { notBefore, error, cause }: RunRecord,
  { blackout, timeZone, retries }: Pick<VmSettings, 'blackout' | 'timeZone' | 'retries'>,
  now: Date,
): Obstacle | null {
  const pauseMs = notBefore === null ? 0 : Date.parse(notBefore) - now.getTime();
  // A longer pause was never meant: the clock was put back.
  if (notBefore !== null && pauseMs > 0 && pauseMs <= retries.longestMs) {
    const why = `its next attempt is at ${notBefore}; the last one failed: ${error?.message ?? 'why is not known'}`;
    return { why, until: new Date(notBefore) };
  }
  const window = cause === 'requested' ? null : blackoutAt(blackout, timeZone, now);
  if (window === null) return null;
  const { end } = window;
  const until = end === null ? 'and its windows leave no time' : `until ${end.toISOString()}`;
  return {
    why: `nothing begins by itself in the window ${window.window.text} (${timeZone}), ${until}`,
    until: end,
  };
}

function obstacleAmong(
  run: RunRecord,
  busy: readonly RunRecord[],
  { runs, perVault }: QueueSite['limits'],
): Obstacle | null {
  const ofVm = busy.find(({ vm }) => vm !== null && vm === run.vm);
  if (ofVm !== undefined) return { why: `the ${ofVm.what} ${ofVm.id} of ${ofVm.vm} is not over` };
  if (busy.length >= runs)
    return { why: `${busy.length} runs are under way on this host (limits.runs: ${runs})` };
  const onVault = busy.filter(({ vault }) => vault !== null && vault === run.vault);
  if (onVault.length < perVault) return null;
  return {
    why: `${onVault.length} runs are under way on the vault ${run.vault} (limits.perVault: ${perVault})`,
  };
}
