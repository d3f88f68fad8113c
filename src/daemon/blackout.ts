/** Windows of the week in which nothing begins by itself. Pure; by the wall clock of a time zone, DST included. */
import type { Window } from '../config/values.ts';

const MINUTE_MS = 60_000;
const DAY_MINUTES = 24 * 60;
const DAYS = ['Sun', 'Mon', 'Tue', 'Wed', 'Thu', 'Fri', 'Sat'];
/** Windows that follow each other without a gap for longer than this leave no time at all. */
const LONGEST_MS = 8 * DAY_MINUTES * MINUTE_MS;

/** What `now` lies in, and when that ends, also through windows that follow at once; null: in none. `end` null: never. */
export function blackoutAt(
  windows: readonly Window[],
  timeZone: string,
  now: Date,
): { readonly window: Window; readonly end: Date | null } | null {
  const first = windowAt(windows, timeZone, now);
  if (first === null) return null;
  let { end } = first;
  for (let next = windowAt(windows, timeZone, end); next !== null; next = windowAt(windows, timeZone, end)) {
    end = next.end;
    if (end.getTime() - now.getTime() > LONGEST_MS) return { window: first.window, end: null };
  }
  return { window: first.window, end };
}

function windowAt(
  windows: readonly Window[],
  timeZone: string,
  now: Date,
): { readonly window: Window; readonly end: Date } | null {
  const wall = wallClock(timeZone, now);
  const found = windows.flatMap((window) => {
    const left = minutesLeft(window, wall);
    return left === null ? [] : [{ window, end: afterMinutes(timeZone, now, wall, left) }];
  });
  return found.toSorted((a, b) => b.end.getTime() - a.end.getTime())[0] ?? null;
}

interface Wall {
  readonly day: number;
  readonly minute: number;
}

/** Of the window that the wall clock stands in. */
function minutesLeft({ days, fromMinute, toMinute }: Window, { day, minute }: Wall): number | null {
  const spansMidnight = toMinute <= fromMinute;
  if (days.includes(day) && minute >= fromMinute && (spansMidnight || minute < toMinute)) {
    return toMinute - minute + (spansMidnight ? DAY_MINUTES : 0);
  }
  const beganYesterday = spansMidnight && days.includes((day + 6) % 7) && minute < toMinute;
  return beganYesterday ? toMinute - minute : null;
}

/** The moment when the wall clock stands so many minutes later, which may be an hour more or less away. */
function afterMinutes(timeZone: string, now: Date, { minute }: Wall, minutes: number): Date {
  const beginOfMinute = Math.floor(now.getTime() / MINUTE_MS) * MINUTE_MS;
  const end = new Date(beginOfMinute + minutes * MINUTE_MS);
  const off = (wallClock(timeZone, end).minute - ((minute + minutes) % DAY_MINUTES)) % DAY_MINUTES;
  const shift = off > DAY_MINUTES / 2 ? off - DAY_MINUTES : off < -DAY_MINUTES / 2 ? off + DAY_MINUTES : off;
  return new Date(end.getTime() - shift * MINUTE_MS);
}

const formats = new Map<string, Intl.DateTimeFormat>();

function wallClock(timeZone: string, at: Date): Wall {
  const format =
    formats.get(timeZone) ??
    new Intl.DateTimeFormat('en-US', {
      timeZone,
      weekday: 'short',
      hour: '2-digit',
      minute: '2-digit',
      hourCycle: 'h23',
    });
  formats.set(timeZone, format);
  const parts = Object.fromEntries(format.formatToParts(at).map(({ type, value }) => [type, value]));
  return {
    day: DAYS.indexOf(parts['weekday'] ?? ''),
    minute: 60 * Number(parts['hour']) + Number(parts['minute']),
  };
}
