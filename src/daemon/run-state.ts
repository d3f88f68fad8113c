/** The one function that says which state of a run comes next. */
import type { RUN_STATES } from '../rpc/run.ts';

export type RunState = (typeof RUN_STATES)[number];

export const RUN_EVENTS = [
  /** A worker is about to be started. */
  'started',
  /** Something was learned that changes no state, such as which process the worker is. */
  'noted',
  'cancelRequested',
  'finished',
  'failed',
  /** It ended because it was told to. */
  'stopped',
  /** It failed with what may pass, and waits for its next attempt. */
  'postponed',
  /** Its worker died and left no result: the work begins again. */
  'lost',
] as const;
export type RunEventType = (typeof RUN_EVENTS)[number];

const NEXT: Readonly<Record<RunState, Readonly<Partial<Record<RunEventType, RunState>>>>> = {
  queued: {
    started: 'running',
    noted: 'queued',
    cancelRequested: 'cancelled',
    // What it would work on is gone.
    failed: 'failed',
  },
  running: {
    noted: 'running',
    cancelRequested: 'cancelling',
    finished: 'succeeded',
    failed: 'failed',
    stopped: 'cancelled',
    postponed: 'queued',
    lost: 'queued',
  },
  cancelling: {
    noted: 'cancelling',
    cancelRequested: 'cancelling',
    // It was done before it heard of it.
    finished: 'succeeded',
    failed: 'failed',
    stopped: 'cancelled',
    // Nobody wants another attempt.
    postponed: 'cancelled',
    lost: 'cancelled',
  },
  succeeded: { cancelRequested: 'succeeded' },
  failed: { cancelRequested: 'failed' },
  cancelled: { cancelRequested: 'cancelled' },
};

/** null: nothing of this kind can happen to it any more, or yet. */
export function nextState(state: RunState, event: RunEventType): RunState | null {
  return NEXT[state][event] ?? null;
}

export function isEnded(state: RunState): boolean {
  return state === 'succeeded' || state === 'failed' || state === 'cancelled';
}
