import fc from 'fast-check';
import t from 'tap';
import type { VmName } from '../../../src/base/ids.ts';
import type { VmConfig } from '../../../src/config/config.ts';
import { parseConfig } from '../../../src/config/read-config.ts';
import { CronSlots } from '../../../src/daemon/cron-slots.ts';
import type { RunRecord } from '../../../src/daemon/run-record.ts';
import { jitterOf, type NextRun, nextOfVm, nextRuns } from '../../../src/daemon/schedule.ts';
import { historyOf, learned, NOTHING_KNOWN, ScheduleMemory } from '../../../src/daemon/schedule-memory.ts';
import { runOf } from '../../helpers/runs.ts';
import { tempDir } from '../../helpers/temp-dir.ts';

type Done = Pick<RunRecord, 'vm' | 'what' | 'state' | 'scheduledFor'>;

const LONG_AGO = new Date('2026-01-01T00:00:00Z');

function vmsOf(defaults: string, vms = 'web1: { qmp: /run/1 }'): readonly VmConfig[] {
  const text = `vaults: { nas: { path: /x } }\ndefaults: { timeZone: Europe/Berlin, ${defaults} }\nvms: { ${vms} }`;
  return parseConfig('c', text).config.vms;
}

/** `11-20T01:00` of 2026, UTC. */
function time(text: string): Date {
  return new Date(`2026-${text}:00Z`);
}

function done(slot: string | null, facts: Partial<Done> = {}): Done {
  const scheduledFor = slot === null ? null : time(slot).toISOString();
  return { vm: 'web1' as VmName, what: 'backup', state: 'succeeded', scheduledFor, ...facts };
}

function next(defaults: string, runs: Done[], now: string, since = LONG_AGO): NextRun | undefined {
  return nextRuns(vmsOf(defaults), { runs, since: () => since }, time(now))[0];
}

const DAILY = 'schedule: "0 2 * * *"';
const HALF_PAST = 'schedule: "30 2 * * *"';

t.test('the next run by what was done and what time it is', async (t) => {
  // Times are UTC; Berlin is an hour before it in November.
  const nights = `${DAILY}, blackout: ["22:00-06:00"]`;
  const table: [
    what: string,
    defaults: string,
    runs: Done[],
    now: string,
    at: string | null,
    cause?: string,
  ][] = [
    ['later today', DAILY, [done('11-19T01:00')], '11-20T00:59', '11-20T01:00'],
    ['now', DAILY, [done('11-19T01:00')], '11-20T01:00', '11-20T01:00'],
    ['done', DAILY, [done('11-20T01:00')], '11-20T01:00', '11-21T01:00'],
    ['failed is done', DAILY, [done('11-20T01:00', { state: 'failed' })], '11-20T01:10', '11-21T01:00'],
    ['missed', DAILY, [done('11-19T01:00')], '11-20T09:00', '11-20T01:00', 'caught-up'],
    ['missed for long: once', DAILY, [done('01-19T01:00')], '11-20T09:00', '11-20T01:00', 'caught-up'],
    ['one is not over', DAILY, [done('11-19T01:00', { state: 'running' })], '11-20T09:00', '11-21T01:00'],
    ['never before', DAILY, [], '11-20T09:00', '11-20T01:00', 'caught-up'],
    [
      'another kind',
      DAILY,
      [done('11-20T01:00', { what: 'prune' })],
      '11-20T09:00',
      '11-20T01:00',
      'caught-up',
    ],
    ['asked for', DAILY, [done(null, { state: 'running' })], '11-20T09:00', '11-20T01:00', 'caught-up'],
    ['clock put back by minutes', DAILY, [done('11-20T01:00')], '11-20T00:30', '11-21T01:00'],
    ['a time that is not', HALF_PAST, [done('03-28T01:30')], '03-28T12:00', '03-29T01:00'],
    ['a time that is twice', HALF_PAST, [done('10-25T00:30')], '10-25T00:31', '10-26T01:30'],
    ['in a window', nights, [done('11-19T05:00')], '11-20T00:00', '11-20T05:00'],
    ['at its end', nights, [done('11-19T05:00')], '11-20T05:00', '11-20T05:00'],
    ['no time at all', `${DAILY}, blackout: ["00:00-24:00"]`, [], '11-20T05:00', null, 'caught-up'],
  ];
  for (const [what, defaults, runs, now, at, cause = 'scheduled'] of table) {
    t.match(next(defaults, runs, now), { at: at === null ? null : time(at), cause }, what);
  }
  t.equal(next('schedule: off', [], '11-20T05:00'), undefined);
});

t.test('what was not scheduled yet was not missed', async (t) => {
  const since = time('11-20T08:00');
  t.match(next(DAILY, [], '11-20T09:00', since), { at: time('11-21T01:00') });
  t.match(next(DAILY, [], '11-22T09:00', since), { at: time('11-22T01:00'), cause: 'caught-up' });
});

t.test('backup, prune and verify each have their own schedule', async (t) => {
  const vms = vmsOf(
    'keep: { last: 1 }, schedule: "0 2 * * *", prune: { schedule: "0 5 * * *" }, verify: { schedule: "@weekly" }',
    'a: { qmp: /run/a }, b: { qmp: /run/b, schedule: off, verify: { schedule: off } }',
  );
  const found = nextRuns(
    vms,
    { runs: [], since: () => new Date('2026-11-20T00:00:00Z') },
    new Date('2026-11-20T00:00:00Z'),
  );
  t.match(found, [
    { vm: 'a', what: 'backup', at: new Date('2026-11-20T01:00:00Z') },
    { vm: 'a', what: 'prune', at: new Date('2026-11-20T04:00:00Z') },
    { vm: 'a', what: 'verify', at: new Date('2026-11-21T23:00:00Z') },
    { vm: 'b', what: 'prune' },
  ]);
  t.equal(found.length, 4);
  t.equal(nextOfVm(found, 'a' as VmName, 'prune'), found[1]);
});

t.test('jitter spreads VMs over its span, and is the same for one VM each time', async (t) => {
  const names = Array.from({ length: 200 }, (_, i) => `vm${i}` as VmName);
  const jitters = names.map((vm) => jitterOf(vm, 'backup', 60_000));
  t.same(
    names.map((vm) => jitterOf(vm, 'backup', 60_000)),
    jitters,
  );
  t.ok(jitters.every((ms) => ms >= 0 && ms < 60_000));
  for (let part = 0; part < 4; part += 1) {
    const inPart = jitters.filter((ms) => Math.floor(ms / 15_000) === part).length;
    t.ok(inPart > 20, `${inPart} of 200 in quarter ${part}`);
  }
  const config = `jitter: 1h, ${DAILY}`;
  const at = new Date(time('11-20T01:00').getTime() + jitterOf('web1' as VmName, 'backup', 3_600_000));
  for (const ms of [-1, 0]) {
    const now = new Date(at.getTime() + ms);
    const [run] = nextRuns(vmsOf(config), { runs: [done('11-19T01:00')], since: () => LONG_AGO }, now);
    t.match(run, { at, slot: time('11-20T01:00'), cause: 'scheduled' });
  }
});

t.test('whatever the clock does, runs come neither in storms nor with gaps', async () => {
  const HOUR = 3_600_000;
  const vms = vmsOf('schedule: "0 */6 * * *", jitter: 20m');
  const slots = new CronSlots();
  const jump = fc.record({
    afterHours: fc.integer({ min: 8, max: 40 }),
    byMinutes: fc.oneof(fc.integer({ min: -70, max: 70 }), fc.integer({ min: -600_000, max: 600_000 })),
  });
  fc.assert(
    fc.property(fc.array(jump, { maxLength: 5 }), (jumps) => {
      let real = 0;
      let offset = Date.parse('2026-11-20T00:00:00Z');
      let known = NOTHING_KNOWN;
      const runs: RunRecord[] = [];
      const ranAt: number[] = [0];
      for (const { afterHours, byMinutes } of [...jumps, { afterHours: 40, byMinutes: 0 }]) {
        for (const end = real + afterHours * HOUR; real < end; real += HOUR / 6) {
          const now = new Date(real + offset);
          known = learned(known, vms, runs, now);
          const [run] = nextRuns(vms, historyOf(known, runs), now, slots);
          if (!run?.at || run.at > now) continue;
          const createdAt = now.toISOString();
          runs.push(runOf({ state: 'succeeded', createdAt, scheduledFor: run.slot.toISOString() }));
          ranAt.push(real);
        }
        offset += byMinutes * 60_000;
      }
      const longest = Math.max(...ranAt.map((at, i) => (ranAt[i + 1] ?? real) - at)) / HOUR;
      // A jump may cost a period and the hour in which nothing is repeated, and may bring one run more.
      return longest <= 13.5 && runs.length <= real / HOUR / 6 + 1 + jumps.length;
    }),
    { numRuns: 60 },
  );
});

t.test('since when something is scheduled is remembered, and forgotten with the schedule', async (t) => {
  const dir = tempDir(t);
  const [on, off] = [vmsOf('schedule: "@daily"'), vmsOf('schedule: off')];
  const at = (day: number) => new Date(Date.UTC(2026, 10, day));
  const sinceOf = async (memory: ScheduleMemory, vms: readonly VmConfig[], day: number) =>
    (await memory.history(vms, [], at(day))).since('web1' as VmName, 'backup');
  t.same(await sinceOf(await ScheduleMemory.open(dir), on, 20), at(20));
  const again = await ScheduleMemory.open(dir);
  t.same(await sinceOf(again, on, 21), at(20));
  await again.history(off, [], at(22));
  t.same(await sinceOf(again, on, 23), at(23));
  t.same(await sinceOf(again, on, 10), at(10), 'and a clock that was put back is believed');
});

t.test('a record from the future does not count any more, also when that future comes', async (t) => {
  const dir = tempDir(t);
  const vms = vmsOf('schedule: "0 2 * * *"');
  const wrong = runOf({
    state: 'succeeded',
    createdAt: '2026-12-20T01:00:00Z',
    scheduledFor: '2026-12-20T01:00:00Z',
  });
  const look = async (now: string) => {
    const memory = await ScheduleMemory.open(dir);
    return nextRuns(vms, await memory.history(vms, [wrong], new Date(now)), new Date(now))[0]?.at;
  };
  t.same(await look('2026-11-20T12:00:00Z'), new Date('2026-11-21T01:00:00Z'));
  t.same(await look('2026-12-20T01:00:00Z'), new Date('2026-12-20T01:00:00Z'));
});
