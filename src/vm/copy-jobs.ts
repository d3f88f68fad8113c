/**
 * The copying of one run: one `blockdev-backup` per disk, all started in one transaction, followed to their end.
 *
 * A hung NAS shows itself as jobs that make no progress. While their I/O is in flight, a `stop`, a reset or a
 * `qom-set`, whoever sends it, hangs QEMU's main loop and with it the guest. So this class sends none, and gives up
 * when they have made none for longer than a slow NAS takes, or at once when the main loop falls silent: a guest's reset may be waiting for our I/O right
 * then (the RESET event comes only after that wait (m)). Ending the jobs is the business of unwinding.
 */
import { z } from 'zod';
import { type EventListener, type QmpClient, QmpError, type QmpEvent } from '../../qmp/index.ts';
import { throwIfAborted } from '../base/deadline.ts';
import { type ErrorCode, QmpvaultError } from '../base/errors.ts';
import type { RunId } from '../base/ids.ts';
import { KiB, MiB } from '../base/units.ts';
import type { NodeName } from './block-graph.ts';
import { ask, SILENCE_MS, stalled, TICK_MS } from './main-loop.ts';
import { runJob } from './run-names.ts';

export interface CopyDisk {
  readonly index: number;
  readonly source: NodeName;
  readonly target: NodeName;
  /** Bitmap on the source that says what to copy; null: everything. */
  readonly bitmap: string | null;
}

export interface CopyProgress {
  readonly index: number;
  readonly doneBytes: number;
  readonly totalBytes: number;
}

export interface FollowOptions {
  readonly signal?: AbortSignal | undefined;
  /** Bytes per second over all disks; undefined: no limit. Asked at each look, so that it can change meanwhile. */
  readonly bandwidth?: (() => number | undefined) | undefined;
  /** Default: as long as a slow NAS may take for what is in flight. */
  readonly noProgressMs?: number | undefined;
  /** How many requests each job has in flight. */
  readonly workers?: number | undefined;
  /** How long the main loop may be silent. Default: as long as a guest can stand. */
  readonly silenceMs?: number | undefined;
  readonly onProgress?: ((progress: readonly CopyProgress[]) => void) | undefined;
}

/** The parts of query-jobs that we read. */
export const JobsReply = z.array(
  z.object({
    id: z.string(),
    status: z.string(),
    'current-progress': z.number(),
    'total-progress': z.number(),
    error: z.string().optional(),
  }),
);
export type Job = z.infer<typeof JobsReply>[number];

/** Starting the jobs also waits for the guest's own I/O, which a busy disk may take some time for. */
const START_MS = 700;
/** block-copy's largest single request; under a low bandwidth limit progress comes in steps of this size. */
const CHUNK_BYTES = MiB;
/** How many of them each job has in flight, where it is not told how many: QEMU's default is 64. */
export const WORKERS = 8;
const NO_PROGRESS_MS = 5_000;
/**
 * A NAS that does no more than this, for all disks together, hangs. A filesystem in a network works at all requests side by
 * side, and QEMU tells of progress when the first of them is done: with two disks and 1 MiB/s after 8 s and more (m).
 */
const SLOWEST_BYTES = 512 * KiB;

/** How long jobs may make no progress. */
export function patienceMs({
  jobs,
  workers = WORKERS,
  bandwidth,
  noProgressMs = Math.max(NO_PROGRESS_MS, (1e3 * jobs * workers * CHUNK_BYTES) / SLOWEST_BYTES),
}: {
  readonly jobs: number;
  readonly workers?: number | undefined;
  readonly bandwidth?: number | undefined;
  readonly noProgressMs?: number | undefined;
}): number {
  return bandwidth ? Math.max(noProgressMs, (4e3 * CHUNK_BYTES * jobs) / bandwidth) : noProgressMs;
}

/** What the transaction does to copy one disk. `auto-dismiss: false`, so that a restarted engine finds the result. */
export function copyAction(run: RunId, disk: CopyDisk, extra: object = {}): object {
  return {
    type: 'blockdev-backup',
    data: {
      'job-id': runJob(run, disk.index),
      device: disk.source,
      target: disk.target,
      'auto-dismiss': false,
      ...(disk.bitmap === null
        ? { sync: 'full' }
        : { sync: 'bitmap', bitmap: disk.bitmap, 'bitmap-mode': 'never' }),
      ...extra,
    },
  };
}

/** A job's speed as QEMU takes it; 0: no limit. */
export function shareOf(bandwidth: number | undefined, among: number): number {
  return bandwidth === undefined ? 0 : Math.max(1, Math.floor(bandwidth / Math.max(1, among)));
}

export class CopyJobs {
  readonly #client: QmpClient;
  readonly #listener: EventListener;
  readonly #indexOf: ReadonlyMap<string, number>;
  readonly #joined: boolean;

  private constructor(client: QmpClient, run: RunId, indexes: readonly number[], joined = false) {
    this.#client = client;
    this.#joined = joined;
    this.#indexOf = new Map(indexes.map((index) => [runJob(run, index), index]));
    this.#listener = client.listen(
      ({ name, data }) => name === 'JOB_STATUS_CHANGE' && this.#indexOf.has(String(data['id'])),
    );
  }

  /**
   * Starts all copies in one transaction.
   * @param actions of the transaction: the copies, and what else must happen at the same instant
   * @param grouped all succeed or all are undone by QEMU; it allows no bitmap-add in the same transaction
   */
  static async start(
    client: QmpClient,
    {
      run,
      indexes,
      actions,
      grouped,
      silenceMs = START_MS,
    }: {
      run: RunId;
      indexes: readonly number[];
      actions: readonly object[];
      grouped: boolean;
      silenceMs?: number | undefined;
    },
  ): Promise<CopyJobs> {
    const jobs = new CopyJobs(client, run, indexes);
    try {
      // Its end drains the disks, and the first job's I/O is on its way by then: to a NAS that hangs, for ever (m).
      const properties = grouped ? { properties: { 'completion-mode': 'grouped' } } : {};
      await ask(client, 'transaction', { args: { actions, ...properties }, silenceMs });
      return jobs;
    } catch (error) {
      jobs.close();
      throw error;
    }
  }

  /** Those that an engine started which is dead. @throws run-failed when the VM does not have all of them */
  static async join(client: QmpClient, run: RunId, indexes: readonly number[]): Promise<CopyJobs> {
    const jobs = new CopyJobs(client, run, indexes, true);
    try {
      if ((await jobs.#read(SILENCE_MS)).length === indexes.length) return jobs;
      throw new QmpvaultError('run-failed', 'its copy jobs are not in the VM');
    } catch (error) {
      jobs.close();
      throw error;
    }
  }

  close(): void {
    this.#listener.close();
  }

  /**
   * Follows all jobs to their end. After an error some may still run: unwinding ends them.
   * @throws run-failed, vault-full, scratch-full, run-stalled, cancelled
   */
  async finish({
    signal,
    bandwidth: bandwidthNow = () => undefined,
    noProgressMs,
    workers,
    silenceMs = SILENCE_MS,
    onProgress,
  }: FollowOptions): Promise<CopyProgress[]> {
    // Of jobs that were joined a limit of their dead engine may still hold.
    let shared: { bandwidth: number | undefined; among: number } = {
      bandwidth: this.#joined ? 0 : undefined,
      among: 0,
    };
    let moved = { bytes: -1, at: performance.now() };
    for (;;) {
      throwIfAborted(signal);
      const jobs = await this.#read(silenceMs);
      const progress = jobs.map((job) => this.#progressOf(job));
      onProgress?.(progress);
      this.#refuseFailed(jobs);
      if (jobs.every((job) => job.status === 'concluded')) return progress;

      const running = jobs.filter((job) => job.status === 'running');
      const bandwidth = bandwidthNow();
      const isNew =
        bandwidth !== shared.bandwidth || (bandwidth !== undefined && running.length !== shared.among);
      if (isNew) await this.#share(bandwidth, running);
      shared = { bandwidth, among: running.length };
      const limitMs = patienceMs({ jobs: this.#indexOf.size, workers, bandwidth, noProgressMs });
      const bytes = jobs.reduce((sum, job) => sum + job['current-progress'], 0);
      if (bytes !== moved.bytes || running.length === 0) moved = { bytes, at: performance.now() };
      if (performance.now() - moved.at > limitMs) throw stalled(limitMs);
      await this.#change(signal);
    }
  }

  /** Waits for an event worth another look, or for the tick. */
  async #change(signal: AbortSignal | undefined): Promise<void> {
    const end = performance.now() + TICK_MS;
    for (;;) {
      const left = end - performance.now();
      if (left <= 0) return;
      let event: QmpEvent;
      try {
        event = await this.#listener.next({ timeoutMs: left, ...(signal && { signal }) });
      } catch (error) {
        throwIfAborted(signal);
        if (error instanceof QmpError && error.code === 'qmp-timeout') return;
        throw error;
      }
      if (['concluded', 'waiting', 'aborting'].includes(String(event.data['status']))) return;
    }
  }

  async #read(silenceMs: number): Promise<Job[]> {
    const jobs = JobsReply.parse(await ask(this.#client, 'query-jobs', { silenceMs }));
    return jobs.filter((job) => this.#indexOf.has(job.id));
  }

  #progressOf(job: Job): CopyProgress {
    return {
      index: this.#indexOf.get(job.id) ?? -1,
      doneBytes: job['current-progress'],
      totalBytes: job['total-progress'],
    };
  }

  async #share(bandwidth: number | undefined, running: readonly Job[]): Promise<void> {
    const speed = shareOf(bandwidth, running.length);
    for (const job of running) {
      try {
        await this.#client.execute('block-job-set-speed', { device: job.id, speed });
      } catch (error) {
        // The job has just ended by itself.
        if (!(error instanceof QmpError && error.code === 'qmp-command')) throw error;
      }
    }
  }

  /** In a group one job fails and QEMU cancels the others: the one with the cause is reported. */
  #refuseFailed(jobs: readonly Job[]): void {
    if (jobs.length < this.#indexOf.size) {
      throw new QmpvaultError(
        'run-failed',
        'a copy job vanished from the VM: somebody else dismissed or cancelled it',
      );
    }
    const failed = jobs.filter((job) => job.error !== undefined);
    const first = failed.find((job) => job.error !== 'Operation canceled') ?? failed[0];
    if (first?.error === undefined) return;
    const { code, meaning } = meaningOf(first.error);
    throw new QmpvaultError(
      code,
      `copying disk ${this.#indexOf.get(first.id)} failed: ${first.error}${meaning}`,
      {
        details: { job: first.id, error: first.error, disk: this.#indexOf.get(first.id) },
      },
    );
  }
}

/** EACCES is what a snapshot-access node answers once its snapshot is broken. */
const BROKEN = 'Permission denied';

/** Whether a copy ended because its snapshot broke: QEMU tells neither why nor where. */
export function hasBrokenSnapshot(error: unknown): boolean {
  return error instanceof QmpvaultError && error.details['error'] === BROKEN;
}

/** QEMU gives the errno only as text. */
function meaningOf(error: string): { code: ErrorCode; meaning: string } {
  if (error === 'No space left on device' || error === 'Disk quota exceeded') {
    return { code: 'vault-full', meaning: ': the vault is full' };
  }
  if (error === BROKEN) {
    return {
      code: 'run-failed',
      meaning:
        ': the snapshot broke, since old data could not be read from the disk, or not be saved to scratch in time',
    };
  }
  return { code: 'run-failed', meaning: '' };
}
