/**
 * JSON values over a unix socket, one per line. It owns the socket and the limits; it knows no QMP.
 *
 * What ndjson 2.0 (split2 3) really does, and what is made of it here:
 * - `strict` emits 'error' for a line that is no JSON and goes on with the next: the first one ends the connection;
 * - `maxLength` counts UTF-16 units and only of the unfinished line after a chunk: a line may exceed it by one
 *   chunk of the socket (64 KiB), never by more;
 * - a line `null` ends its stream as if the peer had closed: told apart by whether the socket has ended too;
 * - at the end an unfinished line is parsed like any other: its error is no news, since the connection is lost
 *   anyway, and comes before the last whole lines are handed out.
 */
import net from 'node:net';
import { parse } from 'ndjson';
import { arm, type Bound, throwIfAborted } from './deadline.ts';
import { QmpError } from './errors.ts';

/**
 * The longest lines are query-qmp-schema (7.2: 0.2 MiB, 11.1: 0.3 MiB) and query-block over a long backing chain.
 * split2 scans an unfinished line anew with every chunk: a peer can cost us 0.6 s with 8 MiB, but 5 s with 32 MiB.
 */
export const DEFAULT_MAX_LINE_BYTES = 8 * 1024 * 1024;

/** sun_path less its final NUL. Node cuts a longer path without a word and connects to another socket. */
const LONGEST_PATH_BYTES = 107;

export interface TransportOptions {
  readonly maxLineBytes?: number | undefined;
  /** `skip`: lines that are no JSON are dropped, and a byte 0xFF (never part of UTF-8) ends a line too. */
  readonly garbage: 'fatal' | 'skip';
  readonly onValue: (value: unknown) => void;
  /** Called once. `null`: we closed it; else `qmp-closed` or `qmp-protocol`. */
  readonly onEnd: (reason: QmpError | null) => void;
}

/** @throws qmp-connect, qmp-aborted */
export async function openSocket(path: string, { timeoutMs, signal }: Bound): Promise<net.Socket> {
  throwIfAborted(signal, path);
  const bytes = Buffer.byteLength(path);
  if (bytes === 0 || bytes > LONGEST_PATH_BYTES) {
    const message = `a unix socket path has 1 to ${LONGEST_PATH_BYTES} bytes, this one ${bytes}: ${path}`;
    throw new QmpError('qmp-connect', message, { details: { path } });
  }
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const socket = net.connect({ path });
  const disarm = arm({ timeoutMs, signal }, `the connection to ${path}`, reject);
  socket.once('connect', resolve).once('error', reject);
  try {
    await promise;
    return socket;
  } catch (cause) {
    socket.destroy();
    if (cause instanceof QmpError && cause.code === 'qmp-aborted') throw cause;
    throw new QmpError('qmp-connect', `cannot connect to ${path}: ${String(cause)}`, {
      details: { path },
      cause,
    });
  } finally {
    disarm();
  }
}

export class Transport {
  readonly socket: net.Socket;
  readonly #options: TransportOptions;
  readonly #closed = Promise.withResolvers<void>();
  #ended = false;

  constructor(socket: net.Socket, options: TransportOptions) {
    this.socket = socket;
    this.#options = options;
    const maxLength = options.maxLineBytes ?? DEFAULT_MAX_LINE_BYTES;
    // ndjson hands its options on to split2, which its types do not tell.
    const parser = parse({ strict: options.garbage === 'fatal', maxLength } as { strict: boolean });
    parser.on('data', (value: unknown) => {
      if (!this.#ended) options.onValue(value);
    });
    parser.on('error', (cause) => {
      if (!socket.readableEnded) this.#broken(cause.message, cause);
    });
    parser.on('end', () => (socket.readableEnded ? this.#lost() : this.#broken('a line that is no object')));
    socket.on('error', (cause) => this.#lost(cause));
    socket.on('close', () => {
      this.#closed.resolve();
      // A reset gives the parser no end; after an orderly one it may still have lines to hand out.
      if (!socket.readableEnded) this.#lost();
    });
    if (options.garbage === 'skip') socket.on('data', breakLines);
    socket.pipe(parser);
  }

  /** @param mark a byte to send before the line, for a protocol that resets its peer with one */
  send(value: unknown, mark?: number): void {
    const line = `${JSON.stringify(value)}\n`;
    this.socket.write(mark === undefined ? line : Buffer.concat([Buffer.of(mark), Buffer.from(line)]));
  }

  /** Destroys the socket and waits until it is closed; idempotent. */
  async close(): Promise<void> {
    this.#end(null);
    await this.#closed.promise;
  }

  /** Ends the connection for a reason that whoever understands the values has found. */
  fail(reason: QmpError): void {
    this.#end(reason);
  }

  #broken(what: string, cause?: Error): void {
    this.#end(new QmpError('qmp-protocol', `the peer does not speak JSON lines: ${what}`, { cause }));
  }

  #lost(cause?: Error): void {
    this.#end(
      new QmpError('qmp-closed', `the peer closed the connection${cause ? `: ${cause.message}` : ''}`, {
        cause,
      }),
    );
  }

  #end(reason: QmpError | null): void {
    if (this.#ended) return;
    this.#ended = true;
    this.socket.destroy();
    this.#options.onEnd(reason);
  }
}

/** In place, and before the parser, which is piped to later, sees the chunk. */
function breakLines(chunk: Buffer): void {
  for (let at = chunk.indexOf(0xff); at >= 0; at = chunk.indexOf(0xff, at)) chunk[at] = 0x0a;
}
