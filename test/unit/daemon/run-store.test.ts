import { chmodSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import type { VmName } from '../../../src/base/ids.ts';
import { silent } from '../../../src/base/log.ts';
import { noSteps, type ReachStep } from '../../../src/base/steps.ts';
import { surplusRuns } from '../../../src/daemon/run-history.ts';
import type { NewRun } from '../../../src/daemon/run-record.ts';
import { RunStore } from '../../../src/daemon/run-store.ts';
import { runOf, START } from '../../helpers/runs.ts';
import { tempDir } from '../../helpers/temp-dir.ts';

const BACKUP: NewRun = {
  what: 'backup',
  vm: 'web1' as VmName,
  vault: 'nas',
  params: { vm: 'web1' },
  cause: 'requested',
};
const ERROR = { code: 'vault-away', message: 'away', details: {} } as const;

function openIn(stateDir: string, reachStep: ReachStep = noSteps, keep = { perVm: 100, overall: 2000 }) {
  let now = START;
  const clock = () => {
    now += 1000;
    return new Date(now);
  };
  return RunStore.open({ stateDir, clock, log: silent, reachStep, keep });
}

t.test(
  'what happened to a run is on disk when it is told, and another daemon goes on from there',
  async (t) => {
    const dir = tempDir(t);
    const steps: string[] = [];
    const store = await openIn(dir, async (step) => {
      steps.push(step);
    });
    const { id } = await store.create({ ...BACKUP, requestId: 'r1' });
    await store.apply(id, { type: 'started' });
    store.setProgress(id, { phase: 'copying', disks: [] });
    const told = await store.apply(id, { type: 'noted', worker: { pid: 1, startTime: 2, bootId: 'b' } });
    t.same(steps, ['run-queued', 'run-started', 'run-noted']);
    const again = await openIn(dir);
    t.strictSame(again.get(id), told);
    t.match(again.get(id), { state: 'running', progress: { phase: 'copying' } });
    t.strictSame(again.byRequest('r1'), told);
    t.same(again.active(), [told]);
  },
);

t.test('one requestId is one run, also asked twice at once and after a restart', async (t) => {
  const dir = tempDir(t);
  const store = await openIn(dir);
  const wish = { ...BACKUP, requestId: 'r1' };
  const [a, b] = await Promise.all([store.create(wish), store.create(wish)]);
  t.equal(a.id, b.id);
  t.equal((await store.create(wish)).id, a.id);
  t.equal((await (await openIn(dir)).create(wish)).id, a.id);
  t.not((await store.create(BACKUP)).id, a.id);
  t.equal(readdirSync(join(dir, 'daemon/runs')).length, 2);
});

t.test('two things that happen at once happen one after the other', async (t) => {
  const store = await openIn(tempDir(t));
  const { id } = await store.create(BACKUP);
  await store.apply(id, { type: 'started' });
  const [cancelling, cancelled, ...tooLate] = await Promise.allSettled([
    store.apply(id, { type: 'cancelRequested' }),
    store.apply(id, { type: 'stopped', error: ERROR }),
    store.apply(id, { type: 'lost', error: ERROR }),
    store.apply(id, { type: 'cancelRequested' }),
  ]);
  t.match(cancelling, { value: { state: 'cancelling' } });
  t.match(cancelled, { value: { state: 'cancelled' } });
  t.match(tooLate, [{ reason: { code: 'internal' } }, { value: { state: 'cancelled' } }]);
});

t.test('a state folder that cannot be written is told, and nothing has happened', async (t) => {
  const dir = tempDir(t);
  const store = await openIn(dir);
  const { id } = await store.create(BACKUP);
  const folder = join(dir, 'daemon/runs');
  rmSync(folder, { recursive: true });
  writeFileSync(folder, 'in the way');
  await t.rejects(store.apply(id, { type: 'started' }), { code: 'state-unwritable' });
  t.match(store.get(id), { state: 'queued', attempts: 0 });
  await t.rejects(store.create({ ...BACKUP, requestId: 'r' }), { code: 'state-unwritable' });
  t.equal(store.byRequest('r'), undefined);
  await t.rejects(openIn(dir), { code: 'state-unwritable' });
});

t.test('a damaged record is left alone, and the others are read', async (t) => {
  const dir = tempDir(t);
  const store = await openIn(dir);
  const [a, b] = [await store.create(BACKUP), await store.create(BACKUP)];
  const file = join(dir, 'daemon/runs', `${a.id}.json`);
  writeFileSync(file, readFileSync(file, 'utf8').slice(0, 40));
  writeFileSync(join(dir, 'daemon/runs', '00000000.json'), JSON.stringify(b));
  chmodSync(file, 0o600);
  const again = await openIn(dir);
  t.same(
    again.all().map(({ id }) => id),
    [b.id],
  );
  t.ok(readFileSync(file, 'utf8'));
});

t.test('the history is bounded, on disk too; a requestId is known as long as its run', async (t) => {
  const dir = tempDir(t);
  const store = await openIn(dir, noSteps, { perVm: 2, overall: 10 });
  const ids: string[] = [];
  for (let i = 0; i < 4; i += 1) {
    const { id } = await store.create({ ...BACKUP, requestId: `r${i}` });
    await store.apply(id, { type: 'started' });
    await store.apply(id, { type: 'failed', error: ERROR });
    ids.push(id);
  }
  t.same(
    store.all().map(({ id }) => id),
    ids.slice(2),
  );
  t.same(
    readdirSync(join(dir, 'daemon/runs')).sort(),
    ids
      .slice(2)
      .map((id) => `${id}.json`)
      .sort(),
  );
  t.equal(store.byRequest('r1'), undefined);
  t.equal(store.byRequest('r2')?.id, ids[2]);
});

t.test('the newest of each kind of a schedule, and the newest success, outlast the bounds', async (t) => {
  let hour = 0;
  const ended = (facts: Parameters<typeof runOf>[0]) => {
    hour += 1;
    return runOf({ state: 'failed', endedAt: new Date(START + hour * 3_600_000).toISOString(), ...facts });
  };
  const runs = [
    ended({ state: 'succeeded' }),
    ended({ state: 'succeeded' }),
    ended({ scheduledFor: '2026-11-19T02:00:00Z', what: 'prune' }),
    ended({ scheduledFor: '2026-11-19T02:00:00Z' }),
    ended({ scheduledFor: '2026-11-20T02:00:00Z' }),
    ...Array.from({ length: 5 }, () => ended({})),
    ended({ vm: 'web2' }),
    runOf({ state: 'running' }),
  ];
  const places = (keep: { perVm: number; overall: number }) =>
    surplusRuns(runs, keep, new Date('2030-01-01T00:00:00Z'))
      .map((run) => runs.indexOf(run))
      .sort((a, b) => a - b);
  t.same(places({ perVm: 3, overall: 100 }), [0, 3, 5, 6]);
  t.same(places({ perVm: 100, overall: 2 }), [0, 3, 5, 6, 7, 8]);
  t.same(places({ perVm: 100, overall: 100 }), []);
});

t.test('with a record all that there is of its run is forgotten', async (t) => {
  const forgotten: string[] = [];
  const store = await RunStore.open({
    stateDir: tempDir(t),
    clock: () => new Date(START),
    log: silent,
    reachStep: noSteps,
    keep: { perVm: 1, overall: 1 },
    onForgotten: async (id) => {
      forgotten.push(id);
    },
  });
  const ids: string[] = [];
  for (let i = 0; i < 3; i += 1) {
    const { id } = await store.create(BACKUP);
    await store.apply(id, { type: 'failed', error: ERROR });
    ids.push(id);
  }
  t.equal(forgotten.length, 2);
  t.strictSame(
    store.all().map(({ id }) => id),
    ids.filter((id) => !forgotten.includes(id)),
  );
});
