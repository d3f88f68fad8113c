/** Sizes, rates and durations as people write them, to and from bytes and milliseconds. */
import { QmpvaultError } from './errors.ts';

export const KiB = 1024;
export const MiB = 1024 ** 2;
export const GiB = 1024 ** 3;

const FACTORS: Readonly<Record<string, number>> = {
  '': 1,
  B: 1,
  KiB,
  MiB,
  GiB,
  TiB: 1024 ** 4,
  KB: 1e3,
  MB: 1e6,
  GB: 1e9,
  TB: 1e12,
};

/** `20MiB`, `1.5GiB`, `4096` to bytes. @throws usage */
export function parseSize(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([A-Za-z]*)$/.exec(text.trim());
  const factor = match?.[2] === undefined ? undefined : FACTORS[match[2]];
  const bytes = Math.round(Number(match?.[1]) * (factor ?? Number.NaN));
  if (Number.isSafeInteger(bytes)) return bytes;
  throw new QmpvaultError(
    'usage',
    `'${text}' is no size: write a number with B, KiB, MiB, GiB, TiB (or KB, MB, GB, TB), such as 20MiB`,
  );
}

/** `20MiB/s` or `20MiB` to bytes per second. @throws usage */
export function parseRate(text: string): number {
  const rate = parseSize(text.replace(/\/s$/, ''));
  if (rate > 0) return rate;
  throw new QmpvaultError('usage', `a rate of '${text}' would never finish; leave it out for no limit`);
}

/** Three significant digits with a binary unit: `6.44 MiB`. */
export function formatBytes(bytes: number): string {
  let unit = 'B';
  let value = bytes;
  for (const next of ['KiB', 'MiB', 'GiB', 'TiB', 'PiB']) {
    if (value < 1024) break;
    value /= 1024;
    unit = next;
  }
  if (unit === 'B' || value >= 100) return `${Math.round(value)} ${unit}`;
  return `${value.toFixed(value >= 10 ? 1 : 2)} ${unit}`;
}

const MS_PER = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 } as const;

/** `90s`, `15m`, `1.5h` to milliseconds. @throws usage */
export function parseDuration(text: string): number {
  const match = /^(\d+(?:\.\d+)?)(ms|s|m|h|d)$/.exec(text.trim());
  const ms = Math.round(Number(match?.[1]) * MS_PER[match?.[2] as keyof typeof MS_PER]);
  if (Number.isSafeInteger(ms)) return ms;
  throw new QmpvaultError(
    'usage',
    `'${text}' is no duration: write a number with ms, s, m, h or d, such as 90s`,
  );
}

/** `3 d 2 h`, `1 h 5 min`, `2 min 5 s`, `12 s`: two units at the most, rounded up. */
export function formatDuration(ms: number): string {
  const seconds = Math.ceil(ms / 1000);
  const [d, h, min, s] = [
    Math.floor(seconds / 86_400),
    Math.floor(seconds / 3600) % 24,
    Math.floor(seconds / 60) % 60,
    seconds % 60,
  ];
  if (d > 0) return `${d} d ${h} h`;
  if (h > 0) return `${h} h ${min} min`;
  return min > 0 ? `${min} min ${s} s` : `${s} s`;
}
