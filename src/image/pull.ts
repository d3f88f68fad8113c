/**
 * Makes a qcow2 take in what it needs of the file that it stands on, so that it could do without.
 *
 * Not with `qemu-img rebase`: that writes the new backing file into the header before its tables are on the disk
 * (m: 7.2 and 11.1), and killed in between it leaves an image that reads the new backing file where it should read
 * its own clusters. Here a block-stream job (QEMU's docs/interop/live-block-operations.rst) copies the clusters, and
 * writes the same link into the header that was there. Whenever it is killed, the image reads as before.
 *
 * What lies below the layer is not opened: an empty image takes its place, and the job copies what is above that.
 */
import type { ChildProcess } from 'node:child_process';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { setInterval } from 'node:timers/promises';
import { execa } from 'execa';
import { followJob, isOfJob, type QmpClient } from '../../qmp/index.ts';
import { bounded, cancelledBy, throwIfAborted } from '../base/deadline.ts';
import { messageOf, QmpvaultError } from '../base/errors.ts';
import { connectMonitor, monitorArgs, unlessItCrashes } from './monitor.ts';
import { readQcow2Header } from './qcow2-header.ts';
import { createImage, type ProgressOptions, systemError } from './qemu-img.ts';
import type { QemuTools } from './tools.ts';

const START_MS = 10_000;
const COMMAND_MS = 120_000;
const DEATH_MS = 1_000;
const TELL_MS = 500;
const JOB = 'pull';
/** The beginning of its folder's name. */
export const PULL_FOLDER = 'qv-pull-';

export interface Pull {
  /** Stands on `layer`, by a link of its header that stays as it is. */
  readonly path: string;
  /** Must have clusters at least as large as those of `path`. */
  readonly layer: string;
  /** For a socket and an empty image. */
  readonly runtimeDir: string;
}

/** Dies with us, like qemu-img. @throws image-tool-failed, image-invalid, cancelled, path-too-long */
export async function pullLayer(
  tools: QemuTools,
  pull: Pull,
  { signal, onProgress }: ProgressOptions = {},
): Promise<void> {
  throwIfAborted(signal);
  const [top, layer] = await Promise.all([readQcow2Header(pull.path), readQcow2Header(pull.layer)]);
  if (top.backingLink === null || layer.clusterBytes < top.clusterBytes) {
    throw new QmpvaultError(
      'image-invalid',
      `${pull.path} does not stand on ${pull.layer} cluster by cluster`,
    );
  }
  await mkdir(pull.runtimeDir, { recursive: true, mode: 0o711 });
  const dir = await mkdtemp(join(pull.runtimeDir, PULL_FOLDER));
  try {
    const empty = join(dir, 'empty.qcow2');
    await createImage(
      tools,
      { path: empty, format: 'qcow2', sizeBytes: layer.virtualSizeBytes, clusterBytes: layer.clusterBytes },
      { signal },
    );
    const nodes = [
      { ...qcow2('empty', empty), 'read-only': true },
      { ...qcow2('layer', pull.layer), 'read-only': true, backing: 'empty' },
      { ...qcow2('top', pull.path), backing: 'layer' },
    ];
    const { backingLink } = top;
    await withDaemon(tools, { nodes, socket: join(dir, 'qmp.sock'), signal }, (client) =>
      stream(client, backingLink, { signal, onProgress }),
    );
  } catch (error) {
    if (signal?.aborted) throw cancelledBy(signal);
    if (error instanceof QmpvaultError) throw error;
    throw failed(pull.path, messageOf(error), error);
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

function qcow2(node: string, path: string): object {
  return { 'node-name': node, driver: 'qcow2', file: { driver: 'file', filename: resolve(path) } };
}

async function stream(
  client: QmpClient,
  link: string,
  { signal, onProgress }: ProgressOptions,
): Promise<void> {
  const run = (command: string, args: Record<string, unknown>) =>
    client.execute(command, args, { signal, timeoutMs: COMMAND_MS });
  const listener = client.listen(isOfJob(JOB));
  await run('block-stream', {
    'job-id': JOB,
    device: 'top',
    'base-node': 'empty',
    'backing-file': link,
    'auto-dismiss': false,
  });
  const ended = new AbortController();
  const told = onProgress && tell(client, onProgress, ended.signal);
  try {
    await followJob(client, listener, JOB, { signal });
  } finally {
    ended.abort();
    await told;
  }
  // Closing writes the tables; the end of the process does not (m: 5.2).
  await run('blockdev-del', { 'node-name': 'top' });
}

/** Asks the job how far it is, until it has ended. */
async function tell(
  client: QmpClient,
  onProgress: (fraction: number) => void,
  ended: AbortSignal,
): Promise<void> {
  try {
    for await (const _ of setInterval(TELL_MS, null, { signal: ended })) {
      const jobs = (await client.execute('query-jobs', {}, { signal: ended })) as JobJson[];
      const job = jobs.find(({ id }) => id === JOB);
      if (job !== undefined && job['total-progress'] > 0) {
        onProgress(job['current-progress'] / job['total-progress']);
      }
    }
  } catch {
    // Nobody needs it, and what is wrong with the job is heard of by who follows it.
  }
}

/** JobInfo in qapi/job.json. */
interface JobJson {
  readonly id: string;
  readonly 'current-progress': number;
  readonly 'total-progress': number;
}

interface DaemonOptions {
  readonly nodes: readonly object[];
  readonly socket: string;
  readonly signal: AbortSignal | undefined;
}

async function withDaemon(
  tools: QemuTools,
  options: DaemonOptions,
  work: (client: QmpClient) => Promise<void>,
): Promise<void> {
  const { signal } = options;
  const { daemon, client } = await unlessItCrashes(() => startDaemon(tools, options));
  try {
    await work(client);
    await client.execute('quit', {}, { signal, timeoutMs: COMMAND_MS });
    const { stderr, exitCode } = await bounded(daemon, {
      signal,
      timeoutMs: COMMAND_MS,
      what: 'the end of qemu-storage-daemon',
    });
    // It speaks only of failures, such as of a table that could not be written, and ends well all the same.
    if (exitCode !== 0 || stderr !== '') throw failed(tools.storageDaemon, stderr || `exit code ${exitCode}`);
  } finally {
    await client.close();
    await end(daemon);
  }
}

async function startDaemon({ storageDaemon }: QemuTools, { nodes, socket, signal }: DaemonOptions) {
  // The files stand in the arguments, so that endLeftoverTools finds the process by them.
  const blockdevs = nodes.flatMap((node) => ['--blockdev', JSON.stringify(node)]);
  const command = [storageDaemon, ...blockdevs, ...monitorArgs(socket)];
  const daemon = execa('setpriv', ['--pdeathsig', 'KILL', ...command], {
    detached: true,
    reject: false,
    stdin: 'ignore',
    stdout: 'ignore',
    maxBuffer: 1024 ** 2,
    env: { LC_ALL: 'C' },
  });
  try {
    const client = await connectMonitor({
      path: socket,
      child: daemon,
      program: 'qemu-storage-daemon',
      code: 'image-tool-failed',
      timeoutMs: START_MS,
      signal,
    });
    return { daemon, client };
  } catch (error) {
    const stderr = await end(daemon);
    throw stderr === '' ? error : failed(storageDaemon, stderr, error);
  }
}

/** @returns what it said */
async function end(
  daemon: PromiseLike<{ stderr: string }> & Pick<ChildProcess, 'kill' | 'unref'>,
): Promise<string> {
  daemon.kill('SIGKILL');
  try {
    const { stderr } = await bounded(Promise.resolve(daemon), { timeoutMs: DEATH_MS, what: 'its end' });
    return stderr;
  } catch {
    daemon.unref();
    return '';
  }
}

function failed(path: string, reason: string, cause?: unknown): QmpvaultError {
  return new QmpvaultError('image-tool-failed', `pulling the backing file into ${path} failed: ${reason}`, {
    details: { path },
    cause: systemError(reason) ?? cause,
  });
}
