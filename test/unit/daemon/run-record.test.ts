import t from 'tap';
import { afterEvent, parseRunRecord, type RunEvent, type RunRecord } from '../../../src/daemon/run-record.ts';
import { runOf, START } from '../../helpers/runs.ts';

const WORKER = { pid: 7, startTime: 8, bootId: 'b' };
const AWAY = { code: 'vault-away', message: 'not mounted?', details: {} } as const;

function after(record: RunRecord, ...events: RunEvent[]): RunRecord {
  return events.reduce((now, event, i) => afterEvent(now, event, new Date(START + i * 1000)), record);
}

const at = (seconds: number) => new Date(START + seconds * 1000).toISOString();

t.test('a run that goes well', async (t) => {
  const run = runOf();
  t.match(after(run, { type: 'started' }, { type: 'noted', worker: WORKER }), {
    state: 'running',
    attempts: 1,
    worker: WORKER,
    startedAt: at(0),
    endedAt: null,
  });
  const done = after(
    run,
    { type: 'started' },
    { type: 'noted', worker: WORKER, warnings: ['slow'] },
    { type: 'finished', result: { point: {} }, point: 'p1', warnings: ['old'] },
  );
  t.match(done, {
    state: 'succeeded',
    worker: null,
    point: 'p1',
    result: { point: {} },
    endedAt: at(2),
    warnings: ['slow', 'old'],
  });
  t.strictSame(parseRunRecord(JSON.stringify(done)), done, 'and is the same after it was written and read');
});

t.test('a bandwidth that was set stays set, whatever becomes of its worker and of the daemon', async (t) => {
  const limited = after(
    runOf(),
    { type: 'noted', bandwidth: 5 },
    { type: 'started' },
    { type: 'noted', worker: WORKER },
  );
  t.match(parseRunRecord(JSON.stringify(limited)), { state: 'running', bandwidth: 5 });
  const free = after(limited, { type: 'noted', bandwidth: null }, { type: 'lost', error: AWAY });
  t.match(parseRunRecord(JSON.stringify(free)), { state: 'queued', bandwidth: null });
});

t.test('a run that is tried again', async (t) => {
  const waiting = after(runOf(), { type: 'started' }, { type: 'postponed', error: AWAY, notBefore: at(100) });
  t.match(waiting, { state: 'queued', attempts: 1, notBefore: at(100), error: AWAY, endedAt: null });
  const again = after(waiting, { type: 'started' });
  t.match(again, { state: 'running', attempts: 2, notBefore: null, error: null, startedAt: at(0) });
  t.match(after(again, { type: 'finished', result: {} }), { state: 'succeeded', error: null });
});

t.test('a run whose worker is lost begins again, and one that nobody wants any more does not', async (t) => {
  const lost = { type: 'lost', error: { ...AWAY, code: 'internal' } } as const;
  const running = after(runOf(), { type: 'started' }, { type: 'noted', worker: WORKER });
  t.match(after(running, lost), { state: 'queued', attempts: 1, worker: null });
  t.match(after(running, { type: 'cancelRequested' }, lost), {
    state: 'cancelled',
    error: { code: 'internal' },
  });
});

t.test('cancelling twice, or what has ended, changes nothing', async (t) => {
  const cancelling = after(runOf(), { type: 'started' }, { type: 'cancelRequested' });
  t.equal(after(cancelling, { type: 'cancelRequested' }), cancelling);
  const failed = after(cancelling, { type: 'failed', error: AWAY });
  t.equal(after(failed, { type: 'cancelRequested' }), failed);
  t.throws(() => after(failed, { type: 'finished', result: {} }), { code: 'internal' });
});

t.test('what is no record is none', async (t) => {
  for (const text of [
    '',
    '{',
    '[]',
    JSON.stringify({ ...runOf(), format: 2 }),
    JSON.stringify({ ...runOf(), id: '../x' }),
  ]) {
    t.equal(parseRunRecord(text), null, text);
  }
});
