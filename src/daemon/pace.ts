/** How fast a run moves, from what its worker tells: bytes per second of late, and the time that is left at that rate. */
import type { Progress } from '../operations/index.ts';
import type { RunProgress } from '../rpc/run.ts';

/** What "of late" means, and how far apart what is remembered of it lies. */
const WINDOW_MS = 10_000;
const SAMPLE_MS = 500;

interface Sample {
  readonly ms: number;
  readonly bytes: number;
}

export class Pace {
  #phase = '';
  readonly #samples = new Map<string, Sample[]>();

  /** @param nowMs of a clock that never jumps */
  observe({ phase, disks }: Progress, nowMs: number): RunProgress {
    if (phase !== this.#phase) this.#samples.clear();
    this.#phase = phase;
    const doneBytes = disks.reduce((sum, disk) => sum + disk.doneBytes, 0);
    const totalBytes = disks.reduce((sum, disk) => sum + disk.totalBytes, 0);
    return {
      phase,
      ...this.#paceOf('', { doneBytes, totalBytes }, nowMs),
      disks: disks.map((disk) => ({
        name: disk.name,
        phase: phaseOf(phase, disk),
        ...this.#paceOf(`/${disk.name}`, disk, nowMs),
      })),
    };
  }

  #paceOf(key: string, { doneBytes, totalBytes }: { doneBytes: number; totalBytes: number }, nowMs: number) {
    const bytesPerSecond = this.#rate(key, { ms: nowMs, bytes: doneBytes });
    const leftBytes = Math.max(0, totalBytes - doneBytes);
    const leftMs = leftBytes === 0 ? 0 : bytesPerSecond ? (leftBytes / bytesPerSecond) * 1000 : null;
    return { doneBytes, totalBytes, bytesPerSecond, leftMs: leftMs === null ? null : Math.round(leftMs) };
  }

  #rate(key: string, now: Sample): number | null {
    const samples = this.#samples.get(key) ?? [];
    this.#samples.set(key, samples);
    const last = samples.at(-1);
    if (last === undefined || now.ms - last.ms >= SAMPLE_MS) samples.push(now);
    while (samples.length > 2 && now.ms - (samples[0]?.ms ?? 0) > WINDOW_MS) samples.shift();
    const first = samples[0];
    if (first === undefined || now.ms <= first.ms) return null;
    return Math.round((Math.max(0, now.bytes - first.bytes) / (now.ms - first.ms)) * 1000);
  }
}

function phaseOf(
  phase: string,
  { doneBytes, totalBytes }: { doneBytes: number; totalBytes: number },
): string {
  if (phase !== 'copying') return phase;
  if (doneBytes >= totalBytes) return 'done';
  return doneBytes > 0 ? phase : 'waiting';
}
