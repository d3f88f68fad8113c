/** What a run of the model did: the figures of the report. */

export class Tally {
  /** Operations that were carried out, by kind. */
  readonly operations = new Map<string, number>();
  /** Faults that fired, by kind. */
  readonly faults = new Map<string, number>();
  /** Steps of the engine at which something happened to it. */
  readonly steps = new Map<string, number>();
  /** The codes with which runs ended that something happened to. */
  readonly ends = new Map<string, number>();
  /** How the points came about: `tracked`, `resynced`, … */
  readonly points = new Map<string, number>();
  /** Operations for which there was nothing to do, and faults that came too late. */
  readonly passed = new Map<string, number>();
  /** Disks of points that were read and compared with what they were. */
  comparisons = 0;
  sequences = 0;

  static count(counts: Map<string, number>, what: string, times = 1): void {
    counts.set(what, (counts.get(what) ?? 0) + times);
  }

  static sum(counts: ReadonlyMap<string, number>): number {
    return counts.values().reduce((sum, count) => sum + count, 0);
  }
}
