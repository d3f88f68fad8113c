/** What is measured, what is to be reached, and how both are shown. Pure. */

export type Unit = 'x' | 'ms' | 'MB' | 'MiB';

/** Reached by a value of at most `most`; `floor` is what must never be exceeded, where that is something else. */
export interface Target {
  readonly most: number;
  readonly floor?: number;
}

export interface Figure {
  readonly name: string;
  readonly value: number;
  readonly unit: Unit;
  readonly target?: Target;
  /** How it came about, where the name does not say it. */
  readonly note?: string;
}

export type Verdict = 'reached' | 'above the target' | 'above the floor';

export const TARGETS = {
  fullToConvert: { most: 1.3, floor: 2 },
  nothingDirtyMs: { most: 150 },
  hugeToSmall: { most: 1.2 },
  emptyFullMs: { most: 1_000 },
  resyncStored: { most: 1.2 },
  guestWriteMs: { most: 50 },
  restoreToConvert: { most: 1.05 },
  listMs: { most: 2_000 },
  engineMb: { most: 120 },
  daemonMb: { most: 150 },
  answerMs: { most: 100 },
  cancelMs: { most: 5_000 },
} as const satisfies Record<string, Target>;

export function verdictOf({ value, target }: Figure): Verdict | null {
  if (target === undefined) return null;
  if (value <= target.most) return 'reached';
  return target.floor !== undefined && value > target.floor ? 'above the floor' : 'above the target';
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length / 2;
  const [low = Number.NaN, high = low] = sorted.slice(Math.ceil(middle) - 1, Math.floor(middle) + 1);
  return (low + high) / 2;
}

/** The median of what was measured, with its extremes. */
export function samples(name: string, unit: Unit, values: readonly number[], target?: Target): Figure {
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const note =
    values.length > 1 ? `${shown(least, unit)} to ${shown(most, unit)} in ${values.length} runs` : 'one run';
  return { name, value: median(values), unit, note, ...(target && { target }) };
}

/** Each run divided by the baseline that ran next to it, so that a machine that slows down slows both sides. */
export function ratios(
  name: string,
  values: readonly number[],
  baselines: readonly number[],
  target?: Target,
): Figure {
  const quotients = values.map((value, i) => value / (baselines[i % baselines.length] ?? Number.NaN));
  return samples(name, 'x', quotients, target);
}

export function table(figures: readonly Figure[]): string {
  const rows = figures.map((figure) => [
    figure.name,
    shown(figure.value, figure.unit),
    figure.target === undefined ? '' : `<= ${shown(figure.target.most, figure.unit)}`,
    verdictOf(figure) ?? '',
    figure.note ?? '',
  ]);
  const widths = [0, 1, 2, 3].map((column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  return rows
    .map((row) => {
      const cells = row.map((cell, i) =>
        i === 1 || i === 2 ? cell.padStart(widths[i] ?? 0) : cell.padEnd(widths[i] ?? 0),
      );
      return `  ${cells.join('  ').trimEnd()}`;
    })
    .join('\n');
}

function shown(value: number, unit: Unit): string {
  const digits = unit === 'x' ? 2 : value < 10 ? 1 : 0;
  return `${value.toFixed(digits)} ${unit}`;
}
