/**
 * The guest agent (qemu-ga) behind a virtio-serial chardev: no greeting, no events and, before QEMU 4.0, no ids, so
 * that only the order says which reply belongs to which command. After a reply that did not come in time the order
 * is unknown until `guest-sync-delimited` has returned a number of our choice: everything before it is stale.
 * The guest is not trusted: a wrong reply fails one command, endless ones hit the limits of the transport.
 */
import { randomInt } from 'node:crypto';
import type { Socket } from 'node:net';
import type { QmpArguments } from './client.ts';
import { arm, type Bound, throwIfAborted } from './deadline.ts';
import { QmpError, type QmpErrorDetails } from './errors.ts';
import { classify, type Message } from './message.ts';
import { openSocket, Transport } from './transport.ts';

export interface AgentConnectOptions extends Bound {
  readonly path: string;
}

export type FreezeStatus = 'thawed' | 'frozen';

type Reply = Extract<Message, { kind: 'return' | 'error' }>;

interface Question extends Bound {
  readonly value: object;
  readonly mark?: number;
  /** Whether this is the awaited reply; what is not is stale and dropped. */
  readonly accepts: (message: Message) => boolean;
  readonly what: string;
}

const DEFAULT_TIMEOUT_MS = 5_000;
/** The longest replies (guest-get-fsinfo of many disks) have some KiB; a hostile guest gets no more than this. */
const MAX_LINE_BYTES = 1024 * 1024;
/** Makes both parsers begin anew (qga/qapi-schema.json, guest-sync-delimited): 0xFF is no part of UTF-8. */
const DELIMITER = 0xff;

export class GuestAgent {
  readonly #path: string;
  readonly #transport: Transport;
  #state: 'unsynced' | 'synced' | 'closed' = 'unsynced';
  /** The tail of the queue: one command at a time, since only the order tells replies apart. */
  #turn: Promise<unknown> = Promise.resolve();
  #awaited:
    | { readonly take: (message: Message) => void; readonly fail: (error: QmpError) => void }
    | undefined;

  private constructor(socket: Socket, path: string) {
    this.#path = path;
    this.#transport = new Transport(socket, {
      maxLineBytes: MAX_LINE_BYTES,
      garbage: 'skip',
      onValue: (value) => this.#awaited?.take(classify(value)),
      onEnd: (reason) => {
        this.#state = 'closed';
        this.#awaited?.fail(this.#error('the connection ended', { cause: reason }));
      },
    });
  }

  /**
   * Connects and synchronises: proof that an agent answers.
   * @throws qmp-agent, qmp-aborted
   */
  static async connect(options: AgentConnectOptions): Promise<GuestAgent> {
    const { path, timeoutMs = DEFAULT_TIMEOUT_MS, signal } = options;
    const end = performance.now() + timeoutMs;
    const socket = await openSocket(path, { timeoutMs, signal }).catch((cause: unknown) => {
      if (cause instanceof QmpError && cause.code === 'qmp-aborted') throw cause;
      throw new QmpError('qmp-agent', `no guest agent at ${path}`, { details: { path }, cause });
    });
    const agent = new GuestAgent(socket, path);
    try {
      await agent.#synchronise(end, signal);
      return agent;
    } catch (error) {
      await agent.close();
      throw error;
    }
  }

  get socket(): Socket {
    return this.#transport.socket;
  }

  /**
   * Commands run one after another; `timeoutMs` includes the wait for the turn and for a resynchronisation.
   * @throws qmp-agent (`details.class` and `description` when the agent refused; without them it may still happen),
   *   qmp-aborted
   */
  execute(
    command: string,
    args?: QmpArguments,
    { timeoutMs = DEFAULT_TIMEOUT_MS, signal }: Bound = {},
  ): Promise<unknown> {
    const end = performance.now() + timeoutMs;
    const result = this.#turn.then(async () => {
      if (this.#state === 'unsynced') await this.#synchronise(end, signal);
      const reply = await this.#ask({
        value: { execute: command, arguments: args },
        accepts: () => true,
        what: command,
        timeoutMs: end - performance.now(),
        signal,
      });
      if (reply.kind === 'return') return reply.value;
      const details = { command, class: reply.class, description: reply.description };
      throw this.#error(`${command} refused: ${reply.description}`, { details });
    });
    this.#turn = result.catch(() => {});
    return result;
  }

  async freezeStatus(bound?: Bound): Promise<FreezeStatus> {
    const status = await this.execute('guest-fsfreeze-status', undefined, bound);
    if (status === 'thawed' || status === 'frozen') return status;
    throw this.#error('guest-fsfreeze-status returned neither thawed nor frozen');
  }

  /**
   * @returns how many filesystems were frozen
   * @throws like execute(); after any error thaw, since the freeze may have happened or may still come
   */
  freeze(bound?: Bound): Promise<number> {
    return this.#count('guest-fsfreeze-freeze', bound);
  }

  /** @returns how many filesystems were thawed */
  thaw(bound?: Bound): Promise<number> {
    return this.#count('guest-fsfreeze-thaw', bound);
  }

  async close(): Promise<void> {
    await this.#transport.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #count(command: string, bound: Bound | undefined): Promise<number> {
    const count = await this.execute(command, undefined, bound);
    if (typeof count === 'number') return count;
    throw this.#error(`${command} returned no number`);
  }

  async #synchronise(end: number, signal: AbortSignal | undefined): Promise<void> {
    const id = randomInt(2 ** 47);
    await this.#ask({
      value: { execute: 'guest-sync-delimited', arguments: { id } },
      mark: DELIMITER,
      accepts: (message) => message.kind === 'return' && message.value === id,
      what: 'guest-sync-delimited',
      timeoutMs: end - performance.now(),
      signal,
    });
  }

  async #ask({ value, mark, accepts, what, timeoutMs, signal }: Question): Promise<Reply> {
    throwIfAborted(signal, what);
    if (this.#state === 'closed') throw this.#error(`${what} was not sent: the connection is closed`);
    if (timeoutMs !== undefined && timeoutMs <= 0) throw this.#error(`no time left to send ${what}`);
    const { promise, resolve, reject } = Promise.withResolvers<Reply>();
    const disarm = arm({ timeoutMs, signal }, what, (error) =>
      reject(
        error.code === 'qmp-aborted' ? error : this.#error(`no reply to ${what} in time`, { cause: error }),
      ),
    );
    this.#state = 'unsynced';
    this.#awaited = {
      take: (message) => {
        if ((message.kind !== 'return' && message.kind !== 'error') || !accepts(message)) return;
        this.#state = 'synced';
        resolve(message);
      },
      fail: reject,
    };
    try {
      this.#transport.send(value, mark);
      return await promise;
    } finally {
      disarm();
      this.#awaited = undefined;
    }
  }

  #error(
    what: string,
    { details = {}, cause }: { details?: QmpErrorDetails; cause?: unknown } = {},
  ): QmpError {
    const message = `guest agent at ${this.#path}: ${what}`;
    return new QmpError('qmp-agent', message, { details: { path: this.#path, ...details }, cause });
  }
}
