/**
 * The writer: a qemu-storage-daemon that alone opens files on the NAS and serves them to a VM over NBD. When the
 * NAS hangs it is the writer that hangs, and it may be killed; QEMU never opens a NAS file. Of a stopped VM it reads
 * the images too.
 *
 * It outlives us: it runs in a session of its own and writes to a file, so that neither a terminal's Ctrl-C nor
 * the end of our stdout makes it half dead, and a later engine finds it by its folder (`adopt`).
 */
import { once } from 'node:events';
import { chmod, readFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { type QmpArguments, QmpClient, QmpCommandError } from '../../qmp/index.ts';
import { bounded, cancelledBy, throwIfAborted } from '../base/deadline.ts';
import { codeOf, messageOf, QmpvaultError } from '../base/errors.ts';
import { socketPath } from '../base/ids.ts';
import { MiB } from '../base/units.ts';
import { endOf, kill, processIn, startDetached } from './detached-process.ts';
import { connectMonitor, monitorArgs, unlessItCrashes } from './monitor.ts';
import { isAlive, type ProcessId } from './process-id.ts';
import { UNWRITTEN } from './qemu-img.ts';
import type { QemuTools } from './tools.ts';

export interface WriterTarget {
  /** Becomes the name of the NBD export. */
  readonly name: string;
  /** A qcow2 made before; its backing file is not opened. */
  readonly path: string;
}

interface Bound {
  readonly signal?: AbortSignal | undefined;
  readonly timeoutMs?: number | undefined;
}

const NODE_PREFIX = 'image-';
const COMMAND_MS = 30_000;
/** Closing flushes; where O_DIRECT is refused, also what the page cache holds. */
const FINISH_MS = 120_000;

/**
 * How a target's file is opened, best first (m: direct with io_uring takes 1.0-1.35 times what `qemu-img convert`
 * takes, buffered 1.4-1.9). Which of them works depends on the build (liburing), the kernel (io_uring may be
 * switched off) and the filesystem (O_DIRECT): that is found out by trying.
 *
 * QEMU flushes a qcow2 file for each new table of it, one per 512 MiB that are written to: a handful of clusters all over a disk
 * of 2 TiB took 100 ms, and take 15 (m). A file that is not published yet has no use for that; what counts is the
 * fsync of our own descriptor. In the page cache it bounds what that one has to wait for.
 */
const UNFLUSHED = { direct: true, 'no-flush': true };
const FILE_MODES = [
  { cache: UNFLUSHED, aio: 'io_uring' },
  { cache: UNFLUSHED, aio: 'native' },
  { cache: UNFLUSHED, aio: 'threads' },
  { cache: { direct: false }, aio: 'threads' },
] as const;

/**
 * A buffer of a request is 1 MiB, for which glibc maps memory that the kernel has to zero first, and gives it back
 * after the request. Kept on the heap it spares the writer half of its work: a full of 1 GiB takes 0.7 instead of 1.0 s
 * (m: 7.2 and 11.1; mallopt(3)).
 */
const KEEP_BUFFERS = { MALLOC_MMAP_THRESHOLD_: `${4 * MiB}`, MALLOC_TRIM_THRESHOLD_: `${64 * MiB}` };

export class Writer {
  readonly #dir: string;
  readonly #id: ProcessId;
  readonly #client: QmpClient;
  /** Resolves when the process has ended, however it did. */
  readonly exited: Promise<void>;
  readonly #served: { readonly node: string; readonly name: string; readonly writable: boolean }[] = [];

  private constructor(dir: string, id: ProcessId, client: QmpClient, exited: Promise<void>) {
    this.#dir = dir;
    this.#id = id;
    this.#client = client;
    this.exited = exited;
  }

  /**
   * Starts one. In `dir`, which is ours alone, it keeps `qmp.sock`, `pid` and `log`; the caller removes them.
   * @param options.diesWithUs where no VM waits for it, it need not outlive us
   * @throws writer-failed, path-too-long, cancelled; nothing is left running then
   */
  static async start(
    options: { tools: QemuTools; dir: string; diesWithUs?: boolean } & Bound,
  ): Promise<Writer> {
    const { tools, diesWithUs = false, signal, timeoutMs = 10_000 } = options;
    const dir = resolve(options.dir);
    const path = qmpPath(dir);
    throwIfAborted(signal);
    const command = [
      ...(diesWithUs ? ['setpriv', '--pdeathsig', 'KILL'] : []),
      tools.storageDaemon,
      ...monitorArgs(path),
    ];
    const start = async () => {
      const child = await startDetached(dir, command, { env: KEEP_BUFFERS, code: 'writer-failed' });
      const exited = once(child, 'exit').then(() => {});
      try {
        const program = 'qemu-storage-daemon';
        const client = await connectMonitor({
          path,
          child,
          program,
          code: 'writer-failed',
          timeoutMs,
          signal,
        });
        const id = await processIn(dir);
        if (id === null) throw new QmpvaultError('writer-failed', `no pid in ${dir}/pid`);
        return new Writer(dir, id, client, exited);
      } catch (error) {
        child.kill('SIGKILL');
        throw error;
      }
    };
    try {
      return await unlessItCrashes(start);
    } catch (error) {
      throw await asWriterFailed(error, 'did not start', dir, signal);
    }
  }

  /**
   * Reconnects to a writer that an earlier engine started and that still lives; it can be finished or killed.
   * Null if it is dead. @throws writer-failed if it lives and does not answer: `killLeftover`
   */
  static async adopt({ dir, signal, timeoutMs = 5_000 }: { dir: string } & Bound): Promise<Writer | null> {
    const id = await processIn(dir);
    if (id === null || !(await isAlive(id))) return null;
    try {
      const client = await QmpClient.connect({
        path: qmpPath(resolve(dir)),
        connectTimeoutMs: timeoutMs,
        greetingTimeoutMs: timeoutMs,
        signal,
      });
      // Its socket tells nearly when it ends, /proc exactly.
      const exited = client.closed.then(() => endOf(id));
      return new Writer(resolve(dir), id, client, exited);
    } catch (error) {
      if (!(await isAlive(id))) return null;
      throw await asWriterFailed(error, `lives (pid ${id.pid}) but does not answer`, dir, signal);
    }
  }

  /** Kills the writer of this folder, if one lives, also when it answers nobody. @returns whether none lives */
  static async killLeftover({ dir }: { dir: string }): Promise<boolean> {
    const id = await processIn(dir);
    return id === null || kill(id);
  }

  get pid(): number {
    return this.#id.pid;
  }

  /** For what reads images of a stopped VM in the same process. */
  get client(): QmpClient {
    return this.#client;
  }

  /** Opens a target for writing. @returns the name of its node @throws writer-failed, cancelled */
  async addTarget({ name, path }: WriterTarget, bound: Bound = {}): Promise<string> {
    const node = this.#nextNode();
    let refusal: unknown;
    for (const mode of FILE_MODES) {
      const file = { driver: 'file', filename: resolve(path), discard: 'unmap', ...mode };
      // A link in a file on the NAS may have been changed by anybody: `backing: null`, never followed here.
      const image = {
        driver: 'qcow2',
        'node-name': node,
        cache: mode.cache,
        backing: null,
        discard: 'unmap',
        'detect-zeroes': 'unmap',
        file,
      };
      try {
        await this.#run('blockdev-add', image, `open ${path}`, bound);
        this.#served.push({ node, name, writable: true });
        return node;
      } catch (error) {
        if (!(error instanceof QmpvaultError && error.cause instanceof QmpCommandError)) throw error;
        refusal = error;
      }
    }
    throw refusal;
  }

  /** Opens an image of the vault for reading, with all its backing files: the caller has looked at their headers. */
  async addSource({ name, path }: WriterTarget, bound: Bound = {}): Promise<void> {
    const node = this.#nextNode();
    const file = { driver: 'file', filename: resolve(path) };
    const image = { driver: 'qcow2', 'node-name': node, 'read-only': true, file };
    await this.#run('blockdev-add', image, `open ${path}`, bound);
    this.#served.push({ node, name, writable: false });
  }

  /**
   * Serves what was added, targets writable, over NBD on a unix socket.
   * @param options.mode of the socket. Whoever may enter the folder of a VM's own may connect: the VM usually has
   *   another uid
   * @throws writer-failed, path-too-long, cancelled
   */
  async serve(options: { socketPath: string; mode?: number } & Bound): Promise<void> {
    const { mode = 0o666 } = options;
    const path = socketPath(resolve(options.socketPath));
    const addr = { type: 'unix', data: { path } };
    await this.#run('nbd-server-start', { addr }, `serve NBD on ${path}`, options);
    await chmod(path, mode);
    for (const { node, name, writable } of this.#served) {
      const image = { type: 'nbd', id: node, 'node-name': node, name, writable };
      await this.#run('block-export-add', image, `export ${name}`, options);
    }
  }

  /**
   * Disconnects whoever is connected, closes all files and tells the process to end: when this returns nobody can use it
   * any more. Whether the files' last tables were written tells `ended`.
   * @throws writer-failed, cancelled; the process may still live then
   */
  async quit({ signal, timeoutMs = FINISH_MS }: Bound = {}): Promise<void> {
    const all = { signal, timeoutMs };
    await this.stopServing(all);
    const nodes = await this.#run('query-named-block-nodes', { flat: true }, 'list its files', all);
    for (const { 'node-name': node } of nodes as { 'node-name': string }[]) {
      if (!node.startsWith(NODE_PREFIX)) continue;
      await this.#run('blockdev-del', { 'node-name': node }, `close ${node}`, all);
    }
    await this.#run('quit', {}, 'quit', all);
  }

  /**
   * Waits for its end after `quit`. Closing writes a qcow2's last tables; where that fails QEMU only prints it
   * (qcow2_inactivate), so what it printed is read. It does not tell of a failed fsync here: the caller has a descriptor of
   * its own on every file and syncs that.
   * @throws writer-failed, cancelled; the process may still live then
   */
  async ended({ signal, timeoutMs = FINISH_MS }: Bound = {}): Promise<void> {
    await bounded(this.exited, {
      signal,
      timeoutMs,
      what: `the end of the writer (pid ${this.pid})`,
      code: 'writer-failed',
    });
    await this.#client.close();
    await this.#refuseFailedTables();
  }

  /** Both. @throws writer-failed, cancelled; the process may still live then */
  async finish(bound: Bound = {}): Promise<void> {
    await this.quit(bound);
    await this.ended(bound);
  }

  /** Disconnects whoever is connected: a VM that closed its end first would wait for our flush, and its guest with it. */
  async stopServing(bound: Bound = {}): Promise<void> {
    const exports = (await this.#run('query-block-exports', {}, 'list its exports', bound)) as unknown[];
    if (exports.length > 0) await this.#run('nbd-server-stop', {}, 'stop serving', bound);
  }

  #nextNode(): string {
    return `${NODE_PREFIX}${this.#served.length}`;
  }

  async #refuseFailedTables(): Promise<void> {
    const said = await readFile(join(this.#dir, 'log'), 'utf8');
    const failure = UNWRITTEN.exec(said)?.[0];
    if (failure === undefined) return;
    const full = failure.includes('No space left') || failure.includes('quota');
    throw new QmpvaultError(
      full ? 'vault-full' : 'writer-failed',
      `the last tables of a file could not be written: ${failure}`,
      { details: { dir: this.#dir, said: said.slice(-2_000) } },
    );
  }

  /** Ends it at once. Returns within two seconds, even if it hangs in the kernel and cannot die before the NAS answers. */
  async kill(): Promise<void> {
    await kill(this.#id);
    await this.#client.close();
  }

  async #run(
    command: string,
    args: QmpArguments,
    what: string,
    { signal, timeoutMs = COMMAND_MS }: Bound,
  ): Promise<unknown> {
    try {
      return await this.#client.execute(command, args, { signal, timeoutMs });
    } catch (error) {
      throw await asWriterFailed(error, `could not ${what}`, this.#dir, signal);
    }
  }
}

function qmpPath(dir: string): string {
  return socketPath(join(dir, 'qmp.sock'));
}

async function asWriterFailed(
  error: unknown,
  what: string,
  dir: string,
  signal?: AbortSignal,
): Promise<unknown> {
  if (signal?.aborted) return cancelledBy(signal);
  if (codeOf(error) === 'path-too-long') return error;
  const log = await readFile(join(dir, 'log'), 'utf8').catch(() => '');
  const tail = log.trim().slice(-2_000);
  const said = tail === '' ? '' : `; it says: ${tail}`;
  return new QmpvaultError('writer-failed', `the writer in ${dir} ${what}: ${messageOf(error)}${said}`, {
    details: { dir },
    cause: error,
  });
}
