/** A bar per disk, with rate and time left. */
import type { Writable } from 'node:stream';
import cliProgress from 'cli-progress';
import { formatBytes } from '../base/units.ts';

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

export class ProgressBars {
  readonly #bars: cliProgress.MultiBar | null;
  readonly #rows = new Map<string, Row>();

  /** @param stream a terminal; null shows nothing */
  constructor(stream: Writable | null) {
    this.#bars =
      stream &&
      new cliProgress.MultiBar({
        stream,
        format: '{disk} [{bar}] {percentage}%  {done}  {pace}',
        hideCursor: true,
        // Signals are ours: they end the command, and that ends the bars.
        gracefulExit: false,
      });
  }

  show(disks: readonly DiskProgress[], nowMs = performance.now()): void {
    if (this.#bars === null) return;
    const width = Math.max(...disks.map(({ name }) => name.length));
    for (const disk of disks) {
      const { name, doneBytes, totalBytes } = disk;
      let row = this.#rows.get(name);
      if (row === undefined) {
        row = { bar: this.#bars.create(totalBytes, 0, {}), since: { ms: nowMs, bytes: doneBytes } };
        this.#rows.set(name, row);
      }
      row.bar.setTotal(totalBytes);
      row.bar.update(doneBytes, {
        disk: name.padEnd(width),
        done: `${formatBytes(doneBytes)} of ${formatBytes(totalBytes)}`,
        pace: paceOf(disk, row.since, nowMs),
      });
    }
  }

  stop(): void {
    this.#bars?.stop();
  }

  [Symbol.dispose](): void {
    this.stop();
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
  return doneBytes >= totalBytes ? rate : `${rate}, ${duration((totalBytes - doneBytes) / bytesPerMs)} left`;
}

function duration(ms: number): string {
  const seconds = Math.ceil(ms / 1000);
  const [h, min, s] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60];
  if (h > 0) return `${h} h ${min} min`;
  return min > 0 ? `${min} min ${s} s` : `${s} s`;
}
