/**
 * Which points a policy keeps, in the manner of `restic forget`: going back from the newest, each rule keeps the
 * newest point of an hour, day, week, month or year that has one, until its count is used up. While a rule has counts
 * left at the end, it keeps the oldest point too, so that the history reaches back as far as it can. Pure.
 */
import { QmpvaultError } from '../base/errors.ts';
import { inOrder } from '../vault/chain.ts';
import type { Manifest } from '../vault/manifest.ts';

export const RULES = ['last', 'hourly', 'daily', 'weekly', 'monthly', 'yearly'] as const;
export type Rule = (typeof RULES)[number];
export type Keep = Readonly<Partial<Record<Rule, number>>>;

export type Retained = Pick<Manifest, 'id' | 'createdAt' | 'parent' | 'sealed' | 'protected'>;

export interface Verdict<P extends Retained> {
  readonly point: P;
  /** Why it is kept; none: it goes. */
  readonly reasons: readonly (Rule | 'protected')[];
}

/**
 * Newest first. A protected point is kept in any case; the rules look at it as at any other.
 * @param timeZone of the calendar, as `Europe/Berlin`
 * @throws usage for a policy that keeps nothing, or an unknown time zone
 */
export function judge<P extends Retained>(points: readonly P[], keep: Keep, timeZone: string): Verdict<P>[] {
  const rules = RULES.map((rule) => ({ rule, left: keep[rule] ?? 0, last: '' })).filter(
    ({ left }) => left > 0,
  );
  if (rules.length === 0) {
    throw new QmpvaultError(
      'usage',
      'a policy that keeps nothing would delete all points: give a --keep-… option',
    );
  }
  const calendar = calendarOf(timeZone);
  const newestFirst = inOrder(points).toReversed();
  return newestFirst.map((point, nth) => {
    const periods = calendar(new Date(point.createdAt));
    const isOldest = nth === newestFirst.length - 1;
    const reasons = rules.filter((state) => {
      const period = state.rule === 'last' ? String(nth) : periods[state.rule];
      if (state.left === 0 || (period === state.last && !isOldest)) return false;
      state.left -= 1;
      state.last = period;
      return true;
    });
    const isProtected = point.protected === true;
    return {
      point,
      reasons: [...reasons.map(({ rule }) => rule), ...(isProtected ? ['protected' as const] : [])],
    };
  });
}

type Periods = Readonly<Record<Exclude<Rule, 'last'>, string>>;

function calendarOf(timeZone: string): (at: Date) => Periods {
  const format = formatOf(timeZone);
  return (at) => {
    const parts = Object.fromEntries(format.formatToParts(at).map(({ type, value }) => [type, value]));
    const { year = '', month = '', day = '', hour = '' } = parts;
    return {
      hourly: `${year}-${month}-${day} ${hour}`,
      daily: `${year}-${month}-${day}`,
      weekly: isoWeek(Number(year), Number(month), Number(day)),
      monthly: `${year}-${month}`,
      yearly: year,
    };
  };
}

function formatOf(timeZone: string): Intl.DateTimeFormat {
  const parts = { year: 'numeric', month: '2-digit', day: '2-digit', hour: '2-digit' } as const;
  try {
    return new Intl.DateTimeFormat('en', { timeZone, calendar: 'gregory', hourCycle: 'h23', ...parts });
  } catch (cause) {
    throw new QmpvaultError('usage', `'${timeZone}' is no time zone: write one as Europe/Berlin, or UTC`, {
      cause,
    });
  }
}

/** ISO 8601: the week belongs to the year that its Thursday lies in. */
function isoWeek(year: number, month: number, day: number): string {
  const date = new Date(Date.UTC(year, month - 1, day));
  const weekday = date.getUTCDay() || 7;
  date.setUTCDate(date.getUTCDate() + 4 - weekday);
  const thursdays = Math.floor((date.getTime() - Date.UTC(date.getUTCFullYear(), 0, 1)) / 86_400_000 / 7);
  return `${date.getUTCFullYear()}-W${thursdays + 1}`;
}
