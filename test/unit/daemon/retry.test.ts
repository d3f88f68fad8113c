import t from 'tap';
import type { ErrorCode } from '../../../src/base/errors.ts';
import { afterFailure, afterLoss, mayPass } from '../../../src/daemon/retry.ts';
import type { RunRecord } from '../../../src/daemon/run-record.ts';
import { runOf, START } from '../../helpers/runs.ts';

const RETRIES = { attempts: 4, firstMs: 60_000, longestMs: 180_000 };

function failure(code: ErrorCode, facts: Partial<Omit<RunRecord, 'vm'>> = {}) {
  const run = runOf({ state: 'running', cause: 'scheduled', attempts: 1, ...facts });
  return afterFailure(run, { code, message: 'm', details: {} }, RETRIES, new Date(START));
}

t.test('what may pass is tried again, what may not is not', async (t) => {
  for (const code of ['vault-away', 'vault-locked', 'vm-busy', 'vm-unreachable', 'run-stalled'] as const) {
    t.equal(failure(code).type, 'postponed', code);
  }
  for (const code of ['vault-full', 'vm-uuid', 'vm-unfit', 'usage', 'damage-found', 'internal'] as const) {
    t.equal(failure(code).type, 'failed', code);
    t.notOk(mayPass(code));
  }
  t.equal(failure('cancelled').type, 'stopped');
});

t.test('who asked for a run hears of its failure at once', async (t) => {
  t.equal(failure('vault-away', { cause: 'requested' }).type, 'failed');
  t.equal(failure('vault-away', { cause: 'caught-up' }).type, 'postponed');
});

t.test('the pauses double up to the longest, and differ from run to run', async (t) => {
  const pauses = [1, 2, 3].map((attempts) => {
    const event = failure('vault-away', { attempts });
    return event.type === 'postponed' ? Date.parse(event.notBefore) - START : 0;
  });
  for (const [i, longest] of [60_000, 120_000, 180_000].entries()) {
    const pause = pauses[i] ?? 0;
    t.ok(pause > 0.75 * longest && pause <= longest, `${pause} of ${longest}`);
  }
  t.equal(failure('vault-away', { attempts: 4 }).type, 'failed', 'and at last it is given up');
  t.not(JSON.stringify(failure('vault-away')), JSON.stringify(failure('vault-away')), 'two runs');
});

t.test('a worker that dies again and again is not started for ever', async (t) => {
  const error = { code: 'internal', message: 'm', details: {} } as const;
  t.equal(afterLoss(runOf({ attempts: 1 }), error).type, 'lost');
  t.equal(afterLoss(runOf({ attempts: 3 }), error).type, 'failed');
});
