/**
 * One QMP connection: ties the session (values, effects) to a transport, promises, deadlines and listeners.
 *
 * A timed-out or aborted command leaves the connection usable and its late reply is dropped; it may still happen
 * (`details.sent`). Whatever breaks the protocol ends the connection, since nothing after it can be believed.
 */
import type { Socket } from 'node:net';
import { arm, type Bound, throwIfAborted } from './deadline.ts';
import { QmpError } from './errors.ts';
import { EventListener } from './event-listener.ts';
import type { QmpEvent, QmpVersion } from './message.ts';
import { type Call, type Effect, Session, type SessionState } from './session.ts';
import { openSocket, Transport } from './transport.ts';

export interface ConnectOptions {
  /** The unix socket of a `-qmp unix:…` or `-chardev socket` monitor. */
  readonly path: string;
  readonly connectTimeoutMs?: number | undefined;
  /** For the greeting and the capability negotiation together. */
  readonly greetingTimeoutMs?: number | undefined;
  readonly maxLineBytes?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface ExecuteOptions extends Bound {
  /** Out of band (`exec-oob`); only commands that QEMU marks `allow-oob`, and only if `client.oob`. */
  readonly oob?: boolean | undefined;
}

export type QmpArguments = Readonly<Record<string, unknown>>;

interface Hello {
  readonly version: QmpVersion;
  readonly oob: boolean;
}

const CONNECT_TIMEOUT_MS = 5_000;
const COMMAND_TIMEOUT_MS = 30_000;

export class QmpClient {
  /** How long a command without a deadline of its own is waited for. */
  patienceMs = COMMAND_TIMEOUT_MS;
  readonly #path: string;
  readonly #session = new Session();
  readonly #transport: Transport;
  readonly #replies = new Map<Call, PromiseWithResolvers<unknown>>();
  readonly #listeners = new Set<EventListener>();
  readonly #ready = Promise.withResolvers<void>();
  readonly #closed = Promise.withResolvers<QmpError | null>();
  /** There from the greeting on, and connect() hands out no client without it. */
  #hello!: Hello;

  private constructor(socket: Socket, { path, maxLineBytes }: ConnectOptions) {
    this.#path = path;
    this.#transport = new Transport(socket, {
      maxLineBytes,
      garbage: 'fatal',
      onValue: (value) => this.#apply(this.#session.received(value)),
      onEnd: (reason) => this.#end(reason),
    });
  }

  /**
   * Connects, reads the greeting and negotiates, with `oob` where it is offered.
   * @throws qmp-connect, qmp-no-greeting (somebody else's client holds the socket: wait and try again), qmp-timeout
   *   (greeted, but the main loop does not answer), qmp-protocol, qmp-aborted
   */
  static async connect(options: ConnectOptions): Promise<QmpClient> {
    const {
      path,
      connectTimeoutMs = CONNECT_TIMEOUT_MS,
      greetingTimeoutMs = CONNECT_TIMEOUT_MS,
      signal,
    } = options;
    const socket = await openSocket(path, { timeoutMs: connectTimeoutMs, signal }).catch((error: unknown) => {
      throw connectError(error, path, 'greeting');
    });
    const client = new QmpClient(socket, options);
    const disarm = arm({ timeoutMs: greetingTimeoutMs, signal }, `the greeting of ${path}`, (error) =>
      client.#ready.reject(error),
    );
    try {
      await client.#ready.promise;
      return client;
    } catch (error) {
      const { state } = client.#session;
      await client.close();
      throw connectError(error, path, state);
    } finally {
      disarm();
    }
  }

  get version(): QmpVersion {
    return this.#hello.version;
  }

  /** Whether `exec-oob` was negotiated. */
  get oob(): boolean {
    return this.#hello.oob;
  }

  get isOpen(): boolean {
    return this.#session.state !== 'closed';
  }

  /** Resolves when the connection has ended: null if by close(), else why. */
  get closed(): Promise<QmpError | null> {
    return this.#closed.promise;
  }

  /** Only for handing its descriptor to another process; reading or writing it here breaks the session. */
  get socket(): Socket {
    return this.#transport.socket;
  }

  /**
   * @returns QEMU's `return` value, unchecked
   * @throws QmpCommandError (did not happen), qmp-closed (not sent), qmp-outcome-unknown (connection lost after
   *   sending), qmp-timeout and qmp-aborted (happened or not if `details.sent`; the connection stays usable)
   */
  async execute(command: string, args?: QmpArguments, options: ExecuteOptions = {}): Promise<unknown> {
    const { timeoutMs = this.patienceMs, signal, oob = false } = options;
    throwIfAborted(signal, command);
    const call: Call = { command, args, oob };
    const reply = Promise.withResolvers<unknown>();
    this.#replies.set(call, reply);
    const disarm = arm({ timeoutMs, signal }, `the reply to ${command}`, ({ code, message, cause }) => {
      const sent = this.#session.giveUp(call);
      reply.reject(new QmpError(code, message, { details: { command, sent }, cause }));
    });
    try {
      this.#apply(this.#session.submit(call));
      return await reply.promise;
    } finally {
      disarm();
      this.#replies.delete(call);
    }
  }

  /** Open it before the command whose events it is to see, and close it when done. */
  listen(wanted: (event: QmpEvent) => boolean = () => true): EventListener {
    const listener = new EventListener(wanted, (it) => this.#listeners.delete(it));
    if (this.isOpen) this.#listeners.add(listener);
    else listener.end(connectionClosed(this.#path));
    return listener;
  }

  /** Idempotent; commands without a reply end with `qmp-outcome-unknown`. */
  async close(): Promise<void> {
    await this.#transport.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #apply(effects: readonly Effect[]): void {
    for (const effect of effects) {
      switch (effect.kind) {
        case 'send':
          this.#transport.send(effect.value);
          break;
        case 'greeted':
          this.#hello = effect;
          break;
        case 'ready':
          this.#ready.resolve();
          break;
        case 'settle':
          if (effect.outcome.ok) this.#replies.get(effect.call)?.resolve(effect.outcome.value);
          else this.#replies.get(effect.call)?.reject(effect.outcome.error);
          break;
        case 'event':
          for (const listener of this.#listeners) listener.push(effect.event);
          break;
        case 'fail':
          this.#transport.fail(effect.error);
          break;
      }
    }
  }

  #end(reason: QmpError | null): void {
    this.#apply(this.#session.ended(reason));
    this.#ready.reject(reason ?? connectionClosed(this.#path));
    for (const listener of this.#listeners) listener.end(reason);
    this.#closed.resolve(reason);
  }
}

function connectError(error: unknown, path: string, state: SessionState): unknown {
  if (!(error instanceof QmpError)) return error;
  const details = { path };
  // QEMU accepts one client and listens with a backlog of 1: the next two wait unaccepted, the others get EAGAIN.
  const queueFull = error.cause instanceof Error && 'code' in error.cause && error.cause.code === 'EAGAIN';
  if (queueFull || (error.code === 'qmp-timeout' && state === 'greeting')) {
    const message = `${path} gives no greeting: another client holds it, and it serves one at a time`;
    return new QmpError('qmp-no-greeting', message, { details, cause: error });
  }
  if (error.code === 'qmp-closed') {
    const message = `${path} closed the connection before it could be used: is QEMU ending?`;
    return new QmpError('qmp-connect', message, { details, cause: error });
  }
  return error;
}

function connectionClosed(path: string): QmpError {
  return new QmpError('qmp-closed', `the connection to ${path} is closed`, { details: { path } });
}
