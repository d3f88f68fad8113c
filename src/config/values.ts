/**
 * The single values of the configuration, each with the words that say what is allowed there. A problem's message is two
 * lines: what is wrong, and what is allowed; see problems.ts.
 */
import { isAbsolute, normalize } from 'node:path';
import { Cron } from 'croner';
import { z } from 'zod';
import { socketPath } from '../base/ids.ts';
import { parseDuration, parseRate, parseSize } from '../base/units.ts';
import { Secret } from './secret.ts';

/** @param parse undefined, or an exception, for what is not allowed */
function leaf<T>(noun: string, allowed: string, parse: (value: unknown) => T | undefined, isSecret = false) {
  return z.unknown().transform((value, context): T => {
    const parsed = attempt(() => parse(value));
    if (parsed !== undefined) return parsed;
    const what =
      value === undefined || value === null
        ? 'is missing'
        : `${isSecret ? 'this' : JSON.stringify(value)} is not ${noun}`;
    context.addIssue({ code: 'custom', message: `${what}\n${allowed}` });
    return z.NEVER;
  });
}

function attempt<T>(parse: () => T | undefined): T | undefined {
  try {
    return parse();
  } catch {
    return undefined;
  }
}

function fromText<T>(parse: (text: string) => T | undefined): (value: unknown) => T | undefined {
  return (value) => (typeof value === 'string' && value !== '' ? parse(value) : undefined);
}

/** YAML reads `4096` as a number; both spellings are meant. */
function fromTextOrNumber<T>(parse: (text: string) => T | undefined): (value: unknown) => T | undefined {
  return (value) => fromText(parse)(typeof value === 'number' ? String(value) : value);
}

export const text = leaf(
  'a text',
  'a text, in quotes if it looks like something else',
  fromText((it) => it),
);
export const group = leaf(
  'a group',
  'a name of /etc/group, or a number',
  fromTextOrNumber((it) => it),
);
export const secret = leaf(
  'a text',
  'a text, in quotes if it looks like something else',
  fromText((it) => new Secret(it)),
  true,
);
export const count = leaf('a count', 'a whole number from 1 on', (value) =>
  Number.isSafeInteger(value) && (value as number) >= 1 ? (value as number) : undefined,
);
export const port = leaf('a port', 'a number from 1 to 65535; it is opened on 127.0.0.1 only', (value) =>
  Number.isInteger(value) && (value as number) >= 1 && (value as number) <= 65_535
    ? (value as number)
    : undefined,
);
export const size = leaf(
  'a size',
  'a number with B, KiB, MiB, GiB or TiB (or KB, MB, GB, TB), such as 50GiB',
  fromTextOrNumber(parseSize),
);
export const rate = leaf('a rate', 'a size per second, such as 200MiB/s', fromTextOrNumber(parseRate));
export const duration = leaf(
  'a duration',
  'a number with ms, s, m, h or d, such as 90s or 15m',
  fromText(parseDuration),
);
export const path = leaf(
  'an absolute path',
  'a path that begins with /',
  fromText((it) => (isAbsolute(it) ? normalize(it) : undefined)),
);
export const socket = leaf(
  'the path of a socket',
  'a path that begins with / and has at most 107 bytes',
  fromText((it) => (isAbsolute(it) ? socketPath(normalize(it)) : undefined)),
);
export const folderInside = leaf(
  'a folder inside the share',
  'a relative path without ..',
  fromText((it) => (isAbsolute(it) || normalize(it).startsWith('..') ? undefined : normalize(it))),
);
export const timeZone = leaf(
  'a time zone',
  'a name such as Europe/Berlin, or UTC',
  fromText((it) => new Intl.DateTimeFormat('en', { timeZone: it }) && it),
);
export const regularExpression = leaf(
  'a regular expression',
  "a regular expression of JavaScript, in single quotes: 'login:'",
  fromText((it) => new RegExp(it) && it),
);
export const webhook = leaf(
  'an address',
  'an address that begins with https:// or http://',
  fromText((it) => (/^https?:$/.test(new URL(it).protocol) ? new Secret(it) : undefined)),
  true,
);
/** null: never by itself. */
export const schedule = leaf(
  'a schedule',
  'five fields as in crontab(5), such as "0 2 * * *", or @daily and the like, that come true at some time; or off',
  fromText((it) => (it === 'off' ? null : cronThatComes(it))),
);

export function oneOf<const T extends string>(...values: readonly T[]) {
  return leaf(`one of ${values.join(', ')}`, values.join(', '), (value) =>
    values.find((known) => known === value),
  );
}

function cronThatComes(text: string): string | undefined {
  return cronOf(text, 'UTC').nextRun() === null ? undefined : text;
}

/** Never running by itself: only asked for its next times. @throws whatever croner says of a wrong one */
export function cronOf(text: string, timeZone: string): Cron {
  return new Cron(text, { timezone: timeZone, mode: '5-part', paused: true, fixedTimeRule: 'no-wildcard' });
}

/** A part of the week, by the clock of a time zone, in which nothing begins. */
export interface Window {
  /** As it was written. */
  readonly text: string;
  /** On which it begins; 0 is Sunday. */
  readonly days: readonly number[];
  readonly fromMinute: number;
  /** Not after `fromMinute`: on the next day. */
  readonly toMinute: number;
}

const DAYS = ['sun', 'mon', 'tue', 'wed', 'thu', 'fri', 'sat'];

export const window = leaf(
  'a window of time',
  'a beginning and an end, with days if it is not every day: "08:00-18:00", "mon-fri 22:00-06:00", "sat,sun 00:00-24:00"',
  fromText(parseWindow),
);

function parseWindow(text: string): Window | undefined {
  const match = /^(?:([a-z,-]+) +)?(\d\d):(\d\d)-(\d\d):(\d\d)$/.exec(text.toLowerCase());
  if (match === null) return undefined;
  const [, days, ...clock] = match;
  const [fromHour = 0, fromMinutes = 0, toHour = 0, toMinutes = 0] = clock.map(Number);
  const fromMinute = 60 * fromHour + fromMinutes;
  const toMinute = 60 * toHour + toMinutes;
  const isClock = fromMinutes < 60 && toMinutes < 60 && fromMinute < 24 * 60 && toMinute <= 24 * 60;
  if (!isClock || fromMinute === toMinute) return undefined;
  const onDays = daysOf(days ?? 'sun-sat');
  return onDays === undefined ? undefined : { text, days: onDays, fromMinute, toMinute };
}

/** `mon-fri,sun`; undefined for anything else. */
function daysOf(text: string): number[] | undefined {
  const days = new Set<number>();
  for (const part of text.split(',')) {
    const [first = -1, last = first, ...more] = part.split('-').map((name) => DAYS.indexOf(name));
    if (first < 0 || last < 0 || more.length > 0) return undefined;
    for (let i = 0; i <= (last - first + 7) % 7; i += 1) days.add((first + i) % 7);
  }
  return [...days].sort();
}
