import t from 'tap';
import { isEnded, nextState, RUN_EVENTS, type RunState } from '../../../src/daemon/run-state.ts';
import { RUN_STATES } from '../../../src/rpc/run.ts';

t.test('each state and each event: what comes next, or that it cannot be', async (t) => {
  const table: Record<RunState, (RunState | null)[]> = {
    // in the order of:  started, noted, cancelRequested, finished, failed, stopped, postponed, lost
    queued: ['running', 'queued', 'cancelled', null, 'failed', null, null, null],
    running: [null, 'running', 'cancelling', 'succeeded', 'failed', 'cancelled', 'queued', 'queued'],
    cancelling: [
      null,
      'cancelling',
      'cancelling',
      'succeeded',
      'failed',
      'cancelled',
      'cancelled',
      'cancelled',
    ],
    succeeded: [null, null, 'succeeded', null, null, null, null, null],
    failed: [null, null, 'failed', null, null, null, null, null],
    cancelled: [null, null, 'cancelled', null, null, null, null, null],
  };
  for (const state of RUN_STATES) {
    t.strictSame(
      RUN_EVENTS.map((event) => nextState(state, event)),
      table[state],
      state,
    );
  }
});

t.test('what has ended stays so', async (t) => {
  for (const state of RUN_STATES.filter(isEnded)) {
    for (const event of RUN_EVENTS)
      t.ok([null, state].includes(nextState(state, event)), `${state} ${event}`);
  }
});
