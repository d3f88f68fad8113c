/**
 * Follows one job to `concluded` and dismisses it. Needs jobs made with `auto-dismiss: false` to be certain of
 * the outcome; of one that is gone it tells what the events said.
 */
import type { QmpClient } from './client.ts';
import type { Bound } from './deadline.ts';
import { QmpCommandError, QmpError } from './errors.ts';
import type { EventListener } from './event-listener.ts';
import { isRecord, type QmpEvent } from './message.ts';

/** qapi/job.json JobStatus; `null` is the event of a job that is gone. */
export type JobStatus =
  | 'undefined'
  | 'created'
  | 'running'
  | 'paused'
  | 'ready'
  | 'standby'
  | 'waiting'
  | 'pending'
  | 'aborting'
  | 'concluded'
  | 'null';

export interface FollowOptions extends Bound {
  readonly onStatus?: ((status: JobStatus) => void) | undefined;
}

/** For QmpClient.listen(): the events of this job, and nothing else. */
export function isOfJob(jobId: string): (event: QmpEvent) => boolean {
  return ({ name, data }) =>
    name === 'JOB_STATUS_CHANGE'
      ? data['id'] === jobId
      : name.startsWith('BLOCK_JOB_') && data['device'] === jobId;
}

/**
 * Resolves when the job has concluded without error and is dismissed.
 * @param listener this job's own, `client.listen(isOfJob(jobId))`, opened before the job was started (or, for a job
 *   that is adopted, before this call): following takes events from it
 * @throws qmp-job (`details.error` is QEMU's text; the job is dismissed or gone), qmp-outcome-unknown (connection
 *   lost), qmp-timeout and qmp-aborted (the job goes on)
 */
export async function followJob(
  client: QmpClient,
  listener: EventListener,
  jobId: string,
  options: FollowOptions = {},
): Promise<void> {
  let error: string | undefined;
  try {
    error = await follow(client, listener, jobId, options);
  } catch (cause) {
    throw notFollowed(cause, jobId);
  }
  if (error === undefined) return;
  throw new QmpError('qmp-job', `job ${jobId} failed: ${error}`, { details: { jobId, error } });
}

/** @returns the job's error */
async function follow(
  client: QmpClient,
  listener: EventListener,
  jobId: string,
  { timeoutMs = Number.POSITIVE_INFINITY, signal, onStatus }: FollowOptions,
): Promise<string | undefined> {
  const end = performance.now() + timeoutMs;
  let told: Told = {};
  // It may have concluded, or be gone, before the listener was opened.
  let job = await queryJob(client, jobId, signal);
  let status: JobStatus | undefined = job ? (job['status'] as JobStatus) : 'null';
  for (;;) {
    if (status) onStatus?.(status);
    if (status === 'concluded') {
      job = await queryJob(client, jobId, signal);
      if (job) return dismiss(client, job, jobId);
    }
    if (status === 'concluded' || status === 'null') {
      for (const event of listener.take().filter(isOfJob(jobId))) told = toldBy(event, told);
      return 'error' in told ? told.error : 'it is gone, and nothing told how it ended';
    }
    const event = await listener.next({ timeoutMs: end - performance.now(), signal });
    if (!isOfJob(jobId)(event)) continue;
    told = toldBy(event, told);
    status = event.name === 'JOB_STATUS_CHANGE' ? (event.data['status'] as JobStatus) : undefined;
  }
}

/** What the events told of the end, for a job that is gone before we can ask: with `error` undefined, it went well. */
type Told = { readonly error?: string | undefined };

function toldBy({ name, data }: QmpEvent, before: Told): Told {
  switch (name) {
    case 'BLOCK_JOB_COMPLETED':
      return { error: typeof data['error'] === 'string' ? data['error'] : undefined };
    case 'BLOCK_JOB_CANCELLED':
      return { error: 'cancelled' };
    case 'JOB_STATUS_CHANGE':
      // `pending` lies only on the way of success (job_verb_transition, job.c), `aborting` only on that of failure.
      if (data['status'] === 'pending') return { error: undefined };
      if (data['status'] === 'aborting') return { error: 'aborted' };
  }
  return before;
}

function notFollowed(cause: unknown, jobId: string): unknown {
  if (!(cause instanceof QmpError)) return cause;
  const details = { jobId };
  switch (cause.code) {
    case 'qmp-timeout':
    case 'qmp-aborted':
      return new QmpError(cause.code, `job ${jobId} goes on: ${cause.message}`, { details, cause });
    case 'qmp-closed':
    case 'qmp-outcome-unknown':
    case 'qmp-protocol': {
      const message = `the connection ended while job ${jobId} ran: it goes on, or is gone with QEMU`;
      return new QmpError('qmp-outcome-unknown', message, { details, cause });
    }
    default:
      return cause;
  }
}

type Job = Readonly<Record<string, unknown>>;

async function queryJob(
  client: QmpClient,
  jobId: string,
  signal?: AbortSignal | undefined,
): Promise<Job | undefined> {
  const jobs = await client.execute('query-jobs', undefined, { signal });
  return Array.isArray(jobs) ? jobs.filter(isRecord).find((job) => job['id'] === jobId) : undefined;
}

/** @returns the job's error */
async function dismiss(client: QmpClient, job: Job, jobId: string): Promise<string | undefined> {
  try {
    await client.execute('job-dismiss', { id: jobId });
  } catch (error) {
    // Somebody else dismissed it between our question and now: what we know of it still holds.
    if (!(error instanceof QmpCommandError) || (await queryJob(client, jobId))) throw error;
  }
  return typeof job['error'] === 'string' ? job['error'] : undefined;
}
