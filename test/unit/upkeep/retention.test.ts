import t from 'tap';
import { judge, type Keep } from '../../../src/upkeep/retention.ts';
import { manifestOf } from '../../helpers/vault-files.ts';

/** Names the points that are kept by the times that made them, oldest first. */
function kept(
  times: readonly string[],
  keep: Keep,
  timeZone = 'UTC',
  guarded: readonly string[] = [],
): string[] {
  const points = times.map((time) => ({
    ...manifestOf(`p-${time.replaceAll(/[^\dA-Z]/g, '')}`, { createdAt: new Date(time).toISOString() }),
    time,
    protected: guarded.includes(time),
  }));
  return judge(points, keep, timeZone)
    .filter(({ reasons }) => reasons.length > 0)
    .map(({ point }) => point.time)
    .toReversed();
}

/** Some days of May 2019 at some hours. */
const MAY = ['2019-05-01T08', '2019-05-02T08', '2019-05-02T11', '2019-05-04T09', '2019-05-05T10'].map(
  (hour) => `${hour}:00Z`,
);
const JANUARY = ['2024-01-02T13:42Z', '2024-01-03T01:04Z', '2024-01-04T20:09Z', '2024-01-04T20:20Z'];
const SUNDAYS = Array.from({ length: 12 }, (_, week) =>
  new Date(Date.UTC(2019, 0, 6 + 7 * week, 10)).toISOString(),
);

t.test('as restic documents it', async (t) => {
  const table: [title: string, times: string[], keep: Keep, kept: string[]][] = [
    ['days without a point do not count', MAY, { daily: 4 }, [MAY[0]!, MAY[2]!, MAY[3]!, MAY[4]!]],
    ['a count left over keeps the oldest', JANUARY, { monthly: 4 }, [JANUARY[0]!, JANUARY[3]!]],
    ['a count used up does not', JANUARY, { monthly: 1 }, [JANUARY[3]!]],
    ['weekly points are daily ones too', SUNDAYS, { daily: 4 }, SUNDAYS.slice(-4)],
    ['each month ends with its newest', SUNDAYS, { monthly: 2 }, [SUNDAYS[7]!, SUNDAYS[11]!]],
    [
      'rules add up',
      SUNDAYS,
      { last: 2, monthly: 3 },
      [SUNDAYS[3]!, SUNDAYS[7]!, SUNDAYS[10]!, SUNDAYS[11]!],
    ],
    ['more than there are', MAY, { last: 9 }, MAY],
    ['one rule, one point', MAY, { yearly: 1 }, [MAY[4]!]],
    ['a year that is not over', ['2018-12-31T23:59Z', ...MAY], { yearly: 2 }, ['2018-12-31T23:59Z', MAY[4]!]],
  ];
  for (const [title, times, keep, expected] of table) t.strictSame(kept(times, keep), expected, title);
});

t.test('weeks begin on Monday, also across the year', async (t) => {
  const times = ['2019-12-29T12:00Z', '2019-12-30T12:00Z', '2020-01-05T12:00Z', '2020-01-06T12:00Z'];
  t.strictSame(kept(times, { weekly: 3 }), [times[0], times[2], times[3]]);
  t.strictSame(kept(['2021-01-01T12:00Z', '2021-01-03T12:00Z', '2021-01-04T12:00Z'], { weekly: 2 }), [
    '2021-01-03T12:00Z',
    '2021-01-04T12:00Z',
  ]);
});

t.test('days are those of the time zone, summer time or not', async (t) => {
  const times = ['2026-03-28T23:30Z', '2026-03-29T00:30Z', '2026-03-29T21:30Z', '2026-03-29T22:30Z'];
  t.strictSame(kept(times, { daily: 2 }, 'UTC'), [times[0], times[3]]);
  t.strictSame(kept(times, { daily: 2 }, 'Europe/Berlin'), [times[2], times[3]]);
  // 02:00 to 03:00 comes twice, as one hour of the calendar.
  const twice = ['2026-10-25T00:30Z', '2026-10-25T01:30Z', '2026-10-25T02:30Z'];
  t.strictSame(kept(twice, { hourly: 2 }, 'Europe/Berlin'), [twice[1], twice[2]]);
});

t.test('a protected point is kept without any rule', async (t) => {
  t.strictSame(kept(MAY, { last: 1 }, 'UTC', [MAY[1]!]), [MAY[1], MAY[4]]);
});

t.test('a policy that keeps nothing, or lives nowhere, is refused', async (t) => {
  t.throws(() => judge([], {}, 'UTC'), { code: 'usage' });
  t.throws(() => judge([manifestOf('p1')], { last: 0 }, 'UTC'), { code: 'usage' });
  t.throws(() => judge([], { last: 1 }, 'Europe/Bielefeld'), { code: 'usage' });
  t.strictSame(judge([], { last: 1 }, 'UTC'), []);
});
