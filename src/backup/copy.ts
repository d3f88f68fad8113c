/** Copying and comparing the disks of a run, side by side, from their moment on. */
import type { QemuTools } from '../image/tools.ts';
import type { Staging } from '../vault/staging.ts';
import type { CopyJobs, CopyProgress } from '../vm/copy-jobs.ts';
import type { BackupPhase, BackupProgress, BackupRequest, RunControl } from './engine.ts';
import { compareWithParent } from './run-disks.ts';
import type { CopiedDisk } from './site.ts';
import { type Task, together } from './together.ts';

/** Comparing uses little CPU time where the disks are slow. */
const COMPARE_STALL_MS = 30_000;

export interface Copy {
  /** Started; closed at the end. */
  readonly jobs: CopyJobs;
  readonly disks: readonly CopiedDisk[];
  readonly tools: QemuTools;
  readonly staging: Staging;
  readonly request: BackupRequest;
  readonly control: RunControl;
  /** What looks after the guest meanwhile. */
  readonly watchers: readonly Task[];
  /** How long QEMU may be silent. Default: as long as a guest can stand. */
  readonly silenceMs?: number;
  /** How many requests each job has in flight. */
  readonly workers?: number;
}

/** @returns the bytes that were copied or compared, by the disk's index @throws what ended one of them */
export async function copyDisks(copy: Copy): Promise<Map<number, number>> {
  const { jobs, disks, tools, staging, request, control, watchers, silenceMs, workers } = copy;
  const { noProgressMs } = request;
  const bandwidth = bandwidthOf(request, control);
  const progress = new Map<number, CopyProgress>();
  const show = (entries: readonly CopyProgress[]) => {
    for (const entry of entries) progress.set(entry.index, entry);
    control.onProgress?.(progressOf('copying', disks, [...progress.values()]));
  };
  const compared = disks.filter(({ plan }) => plan.how === 'resync');
  try {
    await together(control.signal, {
      tasks: [
        (signal) => jobs.finish({ signal, bandwidth, noProgressMs, workers, silenceMs, onProgress: show }),
        ...compared.map(
          (disk) => (signal: AbortSignal) =>
            compareWithParent(
              disk,
              { tools, staging, signal },
              {
                stallMs: noProgressMs ?? COMPARE_STALL_MS,
                onProgress: (fraction) => show([comparing(disk, fraction)]),
              },
            ),
        ),
      ],
      watchers,
    });
  } finally {
    jobs.close();
  }
  return new Map([...progress.values()].map(({ index, doneBytes }) => [index, doneBytes]));
}

/** As it is at any time. */
export function bandwidthOf(request: BackupRequest, control: RunControl): () => number | undefined {
  return control.bandwidth ?? (() => request.bandwidth);
}

export function progressOf(
  phase: BackupPhase,
  disks: readonly CopiedDisk[],
  progress: readonly CopyProgress[],
): BackupProgress {
  const byIndex = new Map(progress.map((entry) => [entry.index, entry]));
  return {
    phase,
    disks: disks.map(({ index, disk }) => ({
      name: disk.name,
      doneBytes: byIndex.get(index)?.doneBytes ?? 0,
      totalBytes: byIndex.get(index)?.totalBytes ?? disk.sizeBytes,
    })),
  };
}

function comparing({ index, disk }: CopiedDisk, fraction: number): CopyProgress {
  return { index, doneBytes: Math.round(fraction * disk.sizeBytes), totalBytes: disk.sizeBytes };
}
