/**
 * Asks the daemon. Errors come out as they went in on the other side; what a lost connection leaves open is told apart
 * from what was never asked, since only that may be asked again without a thought.
 */
import { once } from 'node:events';
import { createConnection, type Socket } from 'node:net';
import type { JSONRPCError } from 'json-rpc-2.0';
import { bounded, throwIfAborted } from '../base/deadline.ts';
import { CODES, type Details, type ErrorCode, errnoOf, messageOf, QmpvaultError } from '../base/errors.ts';
import { socketPath } from '../base/ids.ts';
import { LineSplitter } from './json-lines.ts';
import {
  METHODS,
  type Method,
  type MethodName,
  type MethodParams,
  type MethodResult,
  type NotificationName,
} from './methods.ts';
import { type Notification, NotificationListener } from './notification-listener.ts';

export interface Bound {
  readonly signal?: AbortSignal | undefined;
  readonly timeoutMs?: number | undefined;
}

interface Pending {
  readonly method: string;
  readonly resolve: (result: unknown) => void;
  readonly reject: (error: QmpvaultError) => void;
}

const CONNECT_MS = 5_000;
const ANSWER_MS = 60_000;
/** The points of ten thousand backups of a VM with four disks take a tenth of this. */
const LINE_MAX_BYTES = 256 * 1024 * 1024;

export class RpcClient {
  readonly path: string;
  readonly #socket: Socket;
  readonly #pending = new Map<number, Pending>();
  readonly #listeners = new Set<NotificationListener>();
  readonly #closed = Promise.withResolvers<void>();
  #lastId = 0;
  #ended: QmpvaultError | null = null;

  private constructor(path: string, socket: Socket) {
    this.path = path;
    this.#socket = socket;
    const lines = new LineSplitter(LINE_MAX_BYTES);
    socket.on('data', (chunk) => {
      for (const line of lines.push(chunk)) this.#heed(line);
    });
    socket.on('error', (error) => this.#end(this.#lost(error)));
    socket.on('close', () => {
      this.#end(this.#lost());
      this.#closed.resolve();
    });
  }

  /** @throws daemon-unreachable, path-too-long, cancelled */
  static async connect(path: string, { signal, timeoutMs = CONNECT_MS }: Bound = {}): Promise<RpcClient> {
    throwIfAborted(signal);
    const socket = createConnection(socketPath(path));
    try {
      const what = `a connection to the daemon on ${path}`;
      await bounded(once(socket, 'connect'), { signal, timeoutMs, what, code: 'daemon-unreachable' });
      return new RpcClient(path, socket);
    } catch (error) {
      socket.on('error', () => {}).destroy();
      if (error instanceof QmpvaultError) throw error;
      throw new QmpvaultError('daemon-unreachable', `no daemon on ${path}: ${reasonOf(error)}`, {
        details: { socket: path },
        cause: error,
      });
    }
  }

  /**
   * Calls a method.
   * @param bound.timeoutMs default a minute; none for what waits for something to happen
   * @throws what the method ends with; daemon-unreachable: not sent; daemon-lost, daemon-timeout, cancelled: done or not
   */
  call<M extends MethodName>(
    method: M,
    params: MethodParams<M>,
    bound: Bound = {},
  ): Promise<MethodResult<M>> {
    return this.callByName(method, params, bound) as Promise<MethodResult<M>>;
  }

  /** Calls a method that this client may not know. @throws as `call` */
  async callByName(method: string, params: unknown, bound: Bound = {}): Promise<unknown> {
    const { signal, timeoutMs = answerMs(method) } = bound;
    throwIfAborted(signal);
    if (this.#ended !== null) {
      throw new QmpvaultError('daemon-unreachable', `${messageOf(this.#ended)}: ${method} was not sent`, {
        details: { socket: this.path, method },
      });
    }
    const id = ++this.#lastId;
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    this.#pending.set(id, { method, resolve, reject });
    this.#socket.write(`${JSON.stringify({ jsonrpc: '2.0', method, params, id })}\n`);
    try {
      return await bounded(promise, {
        signal,
        timeoutMs,
        what: `the daemon to answer ${method}`,
        code: 'daemon-timeout',
      });
    } finally {
      this.#pending.delete(id);
    }
  }

  /** Open it before `run.subscribe` is called: between the two nothing is missed. */
  listen(...names: NotificationName[]): NotificationListener {
    const listener = new NotificationListener(names, () => this.#listeners.delete(listener));
    this.#listeners.add(listener);
    if (this.#ended !== null) listener.end(this.#ended);
    return listener;
  }

  /** What waits ends as cancelled. Idempotent. */
  async close(): Promise<void> {
    this.#end(new QmpvaultError('cancelled', 'the connection to the daemon was closed'));
    await this.#closed.promise;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #heed(line: string | null): void {
    let message: unknown;
    try {
      message = line === null ? null : JSON.parse(line);
    } catch {
      message = null;
    }
    if (isNotification(message)) {
      for (const listener of this.#listeners) listener.push(message);
    } else if (isResponse(message)) {
      this.#answered(message.id, message.result, message.error);
    } else {
      this.#end(this.#lost(new Error('what it says is no JSON-RPC')));
    }
  }

  #answered(id: unknown, result: unknown, error: JSONRPCError | undefined): void {
    // Without an id it is about all that was asked: it is one client too many, or the line was too long.
    if (id === null && error !== undefined) {
      this.#fail((method) => errorOf(method, error));
      return;
    }
    const pending = this.#pending.get(id as number);
    if (pending === undefined) return; // nobody waits for it any more
    if (error === undefined) pending.resolve(result);
    else pending.reject(errorOf(pending.method, error));
  }

  #lost(cause?: Error): QmpvaultError {
    const why = cause === undefined ? '' : `: ${cause.message}`;
    return new QmpvaultError('daemon-lost', `the connection to the daemon on ${this.path} has ended${why}`, {
      details: { socket: this.path },
      cause,
    });
  }

  #end(reason: QmpvaultError): void {
    if (this.#ended !== null) return;
    this.#ended = reason;
    this.#socket.destroy();
    this.#fail((method) =>
      reason.code === 'cancelled'
        ? reason
        : new QmpvaultError(
            reason.code,
            `${reason.message}, before it answered ${method}: ask whether it was done`,
            {
              details: { ...reason.details, method },
              cause: reason,
            },
          ),
    );
    for (const listener of this.#listeners) listener.end(reason);
  }

  #fail(errorFor: (method: string) => QmpvaultError): void {
    for (const { method, reject } of this.#pending.values()) reject(errorFor(method));
    this.#pending.clear();
  }
}

function answerMs(method: string): number | undefined {
  const { waits }: Partial<Method> = Object.hasOwn(METHODS, method) ? METHODS[method as MethodName] : {};
  return waits ? undefined : ANSWER_MS;
}

function isNotification(message: unknown): message is Notification {
  return typeof message === 'object' && message !== null && 'method' in message && !('id' in message);
}

interface Response {
  readonly id: unknown;
  readonly result?: unknown;
  readonly error?: JSONRPCError;
}

function isResponse(message: unknown): message is Response {
  if (typeof message !== 'object' || message === null || !('id' in message)) return false;
  return 'error' in message
    ? typeof message.error === 'object' && message.error !== null
    : 'result' in message;
}

/** As it was on the other side. A newer daemon may have codes that this version does not know. */
function errorOf(method: string, { code: number, message, data }: JSONRPCError): QmpvaultError {
  const { code, details } = (typeof data === 'object' && data !== null ? data : {}) as {
    code?: unknown;
    details?: Details;
  };
  const known = isErrorCode(code) ? code : codeOfNumber(number);
  if (known === 'method-unknown') {
    return new QmpvaultError(known, `the daemon has no method ${method}`, { details: { method } });
  }
  return new QmpvaultError(known ?? 'internal', message, {
    details: { ...details, ...(known ? {} : { code, number }) },
  });
}

function isErrorCode(code: unknown): code is ErrorCode {
  return typeof code === 'string' && Object.hasOwn(CODES, code);
}

function codeOfNumber(number: number): ErrorCode | undefined {
  return (Object.keys(CODES) as ErrorCode[]).find((code) => CODES[code][1] === number);
}

function reasonOf(error: unknown): string {
  const errno = errnoOf(error);
  if (errno === 'ENOENT') return 'there is no socket';
  if (errno === 'ECONNREFUSED') return 'nobody listens';
  if (errno === 'EACCES') return 'this user may not use it; the members of its group may';
  return messageOf(error);
}
