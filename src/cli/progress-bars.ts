/** A bar per disk, with rate and time left. */
import type { Writable } from 'node:stream';
import cliProgress from 'cli-progress';
import { formatBytes, formatDuration } from '../base/units.ts';

export interface DiskProgress {
  readonly name: string;
  readonly doneBytes: number;
  readonly totalBytes: number;
}

interface Row {
  readonly bar: cliProgress.SingleBar;
  /** Where the rate is measured from: disks do not all begin at once. */
  readonly since: { readonly ms: number; readonly bytes: number };
}

/** The terminal belongs to it from the first `show` to `stop`. */
export class ProgressBars {
  readonly #bars: cliProgress.MultiBar;
  readonly #rows = new Map<string, Row>();
  #isDrawn = false;

  /** @param stream a terminal */
  constructor(stream: Writable) {
    this.#bars = new cliProgress.MultiBar({
      stream,
      format: '{what} [{bar}] {percentage}%  {done}  {pace}',
      // With the rest at its longest that makes 80 columns.
      barsize: 20,
      hideCursor: true,
      // Signals are ours: they end the command, and that ends the bars.
      gracefulExit: false,
    });
  }

  get isDrawn(): boolean {
    return this.#isDrawn;
  }

  /** A disk that has not begun has no bar. @param doing what is done to the disks, when it is not the copying */
  show(disks: readonly DiskProgress[], doing = '', nowMs = performance.now()): void {
    const whats = disks.map(({ name }) => `${doing}${name}`);
    const width = Math.max(...whats.map((what) => what.length));
    for (const [i, disk] of disks.entries()) {
      const what = whats[i] ?? '';
      const { doneBytes, totalBytes } = disk;
      const row = this.#rows.get(what) ?? (doneBytes > 0 ? this.#begin(what, disk, nowMs) : null);
      row?.bar.setTotal(totalBytes);
      row?.bar.update(doneBytes, {
        what: what.padEnd(width),
        done: `${formatBytes(doneBytes)} of ${formatBytes(totalBytes)}`,
        pace: paceOf(disk, row.since, nowMs),
      });
    }
  }

  /** Of upkeep, which does one thing after the other. */
  showWork({ phase, disks }: { phase: string; disks: readonly DiskProgress[] }): void {
    this.show(disks, phase === 'digesting' ? 'reading back ' : `${phase} `);
  }

  /** A line above the bars. */
  log(line: string): void {
    this.#bars.log(line);
    this.#bars.update();
  }

  stop(): void {
    if (this.#isDrawn) this.#bars.stop();
    this.#isDrawn = false;
  }

  [Symbol.dispose](): void {
    this.stop();
  }

  #begin(what: string, { doneBytes, totalBytes }: DiskProgress, ms: number): Row {
    const row = { bar: this.#bars.create(totalBytes, 0, {}), since: { ms, bytes: doneBytes } };
    this.#rows.set(what, row);
    this.#isDrawn = true;
    return row;
  }
}

/** `20.0 MiB/s, 1 min 5 s left`; nothing as long as nothing can be said. */
export function paceOf(
  { doneBytes, totalBytes }: DiskProgress,
  since: { readonly ms: number; readonly bytes: number },
  nowMs: number,
): string {
  const bytesPerMs = (doneBytes - since.bytes) / (nowMs - since.ms);
  if (!Number.isFinite(bytesPerMs) || bytesPerMs <= 0) return '';
  const rate = `${formatBytes(bytesPerMs * 1000)}/s`;
  return doneBytes >= totalBytes
    ? rate
    : `${rate}, ${formatDuration((totalBytes - doneBytes) / bytesPerMs)} left`;
}
