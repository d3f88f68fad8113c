import t from 'tap';
import { parseConfig } from '../../../src/config/read-config.ts';
import { blackoutAt } from '../../../src/daemon/blackout.ts';

function endAt(windows: string[], now: string, timeZone = 'Europe/Berlin'): string | null | undefined {
  const text = `vaults: { nas: { path: /x } }\ndefaults: { blackout: ${JSON.stringify(windows)} }`;
  const found = blackoutAt(parseConfig('c', text).config.defaults.blackout, timeZone, new Date(now));
  return found === null ? undefined : (found.end?.toISOString() ?? null);
}

t.test('windows by the wall clock, over midnight, over weekends, one behind the other', async (t) => {
  // 2026-11-20 is a Friday; Berlin is an hour before UTC then.
  const table: [windows: string[], now: string, end: string | null | undefined][] = [
    [[], '2026-11-20T10:00:00Z', undefined],
    [['08:00-18:00'], '2026-11-20T06:59:59Z', undefined],
    [['08:00-18:00'], '2026-11-20T07:00:00Z', '2026-11-20T17:00:00.000Z'],
    [['08:00-18:00'], '2026-11-20T16:59:59.999Z', '2026-11-20T17:00:00.000Z'],
    [['08:00-18:00'], '2026-11-20T17:00:00Z', undefined],
    [['22:00-06:00'], '2026-11-20T22:30:00Z', '2026-11-21T05:00:00.000Z'],
    [['22:00-06:00'], '2026-11-21T04:59:00Z', '2026-11-21T05:00:00.000Z'],
    [['22:00-06:00'], '2026-11-21T05:00:00Z', undefined],
    [['fri 22:00-06:00'], '2026-11-21T04:00:00Z', '2026-11-21T05:00:00.000Z'],
    [['fri 22:00-06:00'], '2026-11-21T22:00:00Z', undefined],
    [['sat-sun 00:00-24:00'], '2026-11-21T10:00:00Z', '2026-11-22T23:00:00.000Z'],
    [['sat-mon 00:00-24:00'], '2026-11-20T23:00:00Z', '2026-11-23T23:00:00.000Z'],
    [['08:00-12:00', '12:00-18:00'], '2026-11-20T08:00:00Z', '2026-11-20T17:00:00.000Z'],
    [['08:00-18:00', '10:00-11:00'], '2026-11-20T09:30:00Z', '2026-11-20T17:00:00.000Z'],
    [['00:00-24:00'], '2026-11-20T09:30:00Z', null],
    [['00:00-12:00', '12:00-00:00'], '2026-11-20T09:30:00Z', null],
  ];
  for (const [windows, now, end] of table) t.equal(endAt(windows, now), end, `${windows} at ${now}`);
});

t.test('the end of a window is right on the days on which the clocks are changed', async (t) => {
  // Forward at 01:00 UTC on 2027-03-28, back at 01:00 UTC on 2026-10-25.
  t.equal(endAt(['22:00-06:00'], '2027-03-27T22:00:00Z'), '2027-03-28T04:00:00.000Z');
  t.equal(endAt(['22:00-06:00'], '2026-10-24T21:00:00Z'), '2026-10-25T05:00:00.000Z');
  t.equal(endAt(['22:00-06:00'], '2026-10-24T21:00:00Z', 'Asia/Kolkata'), '2026-10-25T00:30:00.000Z');
});
