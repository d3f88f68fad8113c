/**
 * Filling an image of a running VM with all that its backing files hold, until it stands on none: a `block-stream`
 * job. Guest's writes to it stay: what the image has already is not copied, whoever wrote it, and so a stream that was
 * cut off, by whatever, goes on where it was.
 *
 * Two defects are kept away from the guest:
 * - At its end the job drains the last backing node after it let go of it, and QEMU dies with the guest where nobody else
 *   holds that node, as with all that were opened because a header names them (m: Debian's 7.2.22 does, every time). So
 *   a node of ours stands on it until the job is gone.
 * - It takes the backing file out of the header before the tables of what it copied are on the disk; QEMU killed right
 *   then, the image reads as zeroes what it lacks. So the job waits before its last step (`auto-finalize: false`) until
 *   the image was flushed, which in QMP only the monitor's `qemu-io` does.
 *
 * It may take hours, and the socket serves one client at a time: it is held only while something is asked, so that the
 * VM can be backed up meanwhile.
 */
import { QmpClient, QmpCommandError, QmpError } from '../../qmp/index.ts';
import { cancelledBy, throwIfAborted, until, untilAborted } from '../base/deadline.ts';
import { QmpvaultError } from '../base/errors.ts';
import { type BlockGraph, type NodeName, nodeName, readBlockGraph } from './block-graph.ts';
import { type Job, JobsReply } from './copy-jobs.ts';
import { ask } from './main-loop.ts';

export interface StreamOptions {
  /** The VM's QMP socket. */
  readonly socket: string;
  /** The image's. */
  readonly node: NodeName;
  /** Names the job; the same for the same image, so that whoever comes after a dead engine finds it. */
  readonly job: string;
  /** Bytes per second. */
  readonly bandwidth?: number | undefined;
  readonly signal?: AbortSignal | undefined;
  /** A job that moves nothing for so long is left to itself. */
  readonly noProgressMs?: number | undefined;
  readonly onProgress?: ((doneBytes: number, totalBytes: number) => void) | undefined;
  /** All is copied and flushed; what follows takes the backing file away. */
  readonly onFilled?: (() => Promise<void>) | undefined;
}

const LOOK_MS = 1_000;
/** The guest's own reads may keep the main loop from answering for a while, where the NAS does. */
const SILENCE_MS = 10_000;
const NO_PROGRESS_MS = 30_000;
const END_MS = 10_000;
const TICK_MS = 50;

/** The name of the job, and of what else it needs. Not of a run: a backup does not take it for a leftover. */
export function streamJob(id: string): string {
  return `qmpvault-fill-${id}`;
}

/**
 * When it returns, the image stands on nothing, and QEMU holds nothing of it back.
 * @throws run-failed; run-stalled: the job goes on by itself; vm-lost; cancelled: the job is ended, what it copied stays
 */
export async function streamIn(options: StreamOptions): Promise<void> {
  const { signal, noProgressMs = NO_PROGRESS_MS, onProgress } = options;
  let moved = { bytes: -1, at: performance.now() };
  try {
    await withClient(options, (client) => begin(client, options));
    for (;;) {
      throwIfAborted(signal);
      const job = await withClient(options, (client) => goOn(client, options));
      if (job === null) return;
      const bytes = job['current-progress'];
      onProgress?.(bytes, job['total-progress']);
      if (bytes !== moved.bytes) moved = { bytes, at: performance.now() };
      if (performance.now() - moved.at > noProgressMs) throw stalled(options, noProgressMs);
      await untilAborted(signal, LOOK_MS);
    }
  } catch (error) {
    if (!signal?.aborted) throw error;
    await withClient({ ...options, signal: undefined }, (client) => cancel(client, options));
    throw cancelledBy(signal);
  }
}

/** The node at the end of a chain of backing files; the node itself when it has none. */
export function lastBacking(graph: BlockGraph, node: NodeName): NodeName {
  let last = node;
  const seen = new Set<NodeName>();
  for (
    let next: NodeName | null = node;
    next !== null && !seen.has(next);
    next = graph.child(next, 'backing')
  ) {
    seen.add(next);
    last = next;
  }
  return last;
}

/** Unless a job of this name is there already, or nothing is left to be done. */
async function begin(client: QmpClient, { node, job, bandwidth }: StreamOptions): Promise<void> {
  if ((await jobOf(client, job)) !== null) return;
  const graph = await readBlockGraph(client);
  await removeHolder(client, job);
  const last = lastBacking(graph, node);
  if (last === node) return;
  const holder = { driver: 'raw', 'node-name': holderOf(job), 'read-only': true, file: last };
  await client.execute('blockdev-add', holder);
  await client.execute('block-stream', {
    'job-id': job,
    device: node,
    'auto-finalize': false,
    'auto-dismiss': false,
    ...(bandwidth !== undefined && { speed: bandwidth }),
  });
}

/** @returns null when it is done */
async function goOn(client: QmpClient, options: StreamOptions): Promise<Job | null> {
  const { node, job, onFilled } = options;
  let found = await jobOf(client, job);
  if (found?.status === 'pending') {
    await flush(client, node);
    await onFilled?.();
    await client.execute('job-finalize', { id: job });
    found = await untilEnded(client, job);
  }
  if (found !== null && found.status !== 'concluded') return found;
  await forget(client, job);
  if (found?.error !== undefined) {
    throw new QmpvaultError(
      'run-failed',
      `filling ${node} failed: ${found.error}. What was copied stays: repeat`,
      {
        details: { job, error: found.error },
      },
    );
  }
  if (lastBacking(await readBlockGraph(client), node) !== node) {
    throw new QmpvaultError(
      'run-failed',
      `${node} still has a backing file: did somebody cancel the job ${job}?`,
    );
  }
  await flush(client, node);
  return null;
}

async function cancel(client: QmpClient, { job }: StreamOptions): Promise<void> {
  if ((await jobOf(client, job)) === null) return;
  await client.execute('job-cancel', { id: job }).catch(ignoreRefusal);
  await untilEnded(client, job);
  await forget(client, job);
}

async function untilEnded(client: QmpClient, job: string): Promise<Job | null> {
  const ended = await until(
    async () => {
      const found = await jobOf(client, job);
      return found === null || found.status === 'concluded' ? { found } : undefined;
    },
    {
      timeoutMs: END_MS,
      everyMs: TICK_MS,
      what: `the end of the job ${job}: does the NAS hang?`,
      code: 'run-stalled',
    },
  );
  return ended.found;
}

async function forget(client: QmpClient, job: string): Promise<void> {
  await client.execute('job-dismiss', { id: job }).catch(ignoreRefusal);
  await removeHolder(client, job);
}

/** Writes all that QEMU holds back of an image. */
async function flush(client: QmpClient, node: NodeName): Promise<void> {
  const said = await client.execute('human-monitor-command', { 'command-line': `qemu-io ${node} "flush"` });
  if (said === '') return;
  throw new QmpvaultError('run-failed', `flushing ${node} failed: ${String(said).trim()}`);
}

function holderOf(job: string): NodeName {
  return nodeName(`${job}-end`);
}

async function removeHolder(client: QmpClient, job: string): Promise<void> {
  await client.execute('blockdev-del', { 'node-name': holderOf(job) }).catch(ignoreRefusal);
}

/** It is gone already. */
function ignoreRefusal(error: unknown): void {
  if (!(error instanceof QmpCommandError)) throw error;
}

async function jobOf(client: QmpClient, id: string): Promise<Job | null> {
  const jobs = JobsReply.parse(await ask(client, 'query-jobs', { silenceMs: SILENCE_MS }));
  return jobs.find((job) => job.id === id) ?? null;
}

/** Waits while a backup, or whoever else, has the socket. */
async function withClient<T>(
  { socket, signal, node }: Pick<StreamOptions, 'socket' | 'signal' | 'node'>,
  work: (client: QmpClient) => Promise<T>,
): Promise<T> {
  for (;;) {
    throwIfAborted(signal);
    let client: QmpClient;
    try {
      client = await QmpClient.connect({ path: socket, ...(signal && { signal }) });
    } catch (cause) {
      if (cause instanceof QmpError && cause.code === 'qmp-no-greeting') continue;
      throwIfAborted(signal);
      throw lost(node, cause);
    }
    try {
      return await work(client);
    } catch (error) {
      const isLost = error instanceof QmpError && ['qmp-outcome-unknown', 'qmp-closed'].includes(error.code);
      throw isLost ? lost(node, error) : error;
    } finally {
      await client.close();
    }
  }
}

function lost(node: NodeName, cause: unknown): QmpvaultError {
  const then = 'what was copied stays: start it again, and fill again';
  return new QmpvaultError('vm-lost', `the VM ended while ${node} was filled; ${then}`, { cause });
}

function stalled({ node, job }: StreamOptions, afterMs: number): QmpvaultError {
  return new QmpvaultError(
    'run-stalled',
    `filling ${node} got no further for ${afterMs} ms: does the NAS hang? Then the guest waits for it too. The job goes on; repeat to follow it`,
    { details: { job, afterMs } },
  );
}
