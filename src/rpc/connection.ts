/**
 * One client of the server. It costs the server a bounded amount of memory and of time, whatever it sends and however
 * slowly it reads; when it goes, what it waited for is let go of.
 */
import { setMaxListeners } from 'node:events';
import type { Socket } from 'node:net';
import { QmpvaultError } from '../base/errors.ts';
import { type CallContext, type Dispatcher, type RpcPeer, refusal } from './dispatch.ts';
import { LineSplitter } from './json-lines.ts';
import { TimeSlice } from './time-slice.ts';

export interface ConnectionLimits {
  readonly lineMaxBytes: number;
  /** Documents that are being answered; one more is refused. */
  readonly inFlightMax: number;
  /** The bytes of those: as long as there are more, nothing further is read. */
  readonly inFlightMaxBytes: number;
  /** Answers that the client has not read: as long as there are more, nothing further is read. */
  readonly unreadPauseBytes: number;
  /** With one more answer it is disconnected. */
  readonly unreadMaxBytes: number;
  /** A client that reads nothing for so long, while there is something to be read, is disconnected. */
  readonly stallMs: number;
  /** Who will send nothing more gets answers for so long: he cannot be told from one who has gone. */
  readonly lingerMs: number;
  /** Notifications that wait for a slow reader. */
  readonly notificationsMax: number;
}

export const CONNECTION_LIMITS: ConnectionLimits = {
  lineMaxBytes: 1024 * 1024,
  inFlightMax: 256,
  inFlightMaxBytes: 2 * 1024 * 1024,
  unreadPauseBytes: 256 * 1024,
  unreadMaxBytes: 8 * 1024 * 1024,
  stallMs: 60_000,
  lingerMs: 5_000,
  notificationsMax: 1_000,
};

export class Connection implements RpcPeer {
  readonly id: number;
  /** Never rejects. */
  readonly closed: Promise<void>;
  readonly #socket: Socket;
  readonly #dispatcher: Dispatcher;
  readonly #limits: ConnectionLimits;
  readonly #gone = new AbortController();
  /** Of waiting calls: also when the server ends, while answers can still be sent. */
  readonly #over = new AbortController();
  readonly #waitingNotifications = new Map<string, string>();
  #inFlight = 0;
  #inFlightBytes = 0;
  #isLeaving = false;
  #wake: (() => void) | null = null;

  constructor(id: number, socket: Socket, dispatcher: Dispatcher, limits: ConnectionLimits) {
    this.id = id;
    this.#socket = socket;
    this.#dispatcher = dispatcher;
    this.#limits = limits;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.closed = promise;
    // Every call may wait for them.
    setMaxListeners(0, this.#gone.signal, this.#over.signal);
    socket.on('error', () => {});
    socket.on('close', () => {
      this.#ended();
      resolve();
    });
    socket.on('drain', () => this.#drained());
    socket.setTimeout(limits.stallMs);
    socket.on('timeout', () => {
      if (socket.writableLength > 0) socket.destroy();
    });
    void this.#read();
  }

  get gone(): AbortSignal {
    return this.#gone.signal;
  }

  notify(method: string, params: object, key: string): void {
    if (this.gone.aborted) return;
    const line = JSON.stringify({ jsonrpc: '2.0', method, params });
    if (!this.#socket.writableNeedDrain) {
      this.#write(line);
      return;
    }
    // Behind those that wait already, also when it takes the place of one of them.
    this.#waitingNotifications.delete(key);
    this.#waitingNotifications.set(key, line);
    if (this.#waitingNotifications.size <= this.#limits.notificationsMax) return;
    const [oldest] = this.#waitingNotifications.keys();
    if (oldest !== undefined) this.#waitingNotifications.delete(oldest);
  }

  /** Ends what it waits for, sends what is left to be sent for a while, and waits. Idempotent. */
  async close(graceMs: number): Promise<void> {
    this.#over.abort(new QmpvaultError('daemon-stopping', 'the daemon ends'));
    this.#wakeReader();
    const timer = setTimeout(() => this.#socket.destroy(), graceMs);
    if (this.#inFlight === 0) this.#socket.destroySoon();
    await this.closed;
    clearTimeout(timer);
  }

  async #read(): Promise<void> {
    const lines = new LineSplitter(this.#limits.lineMaxBytes);
    const slice = new TimeSlice();
    try {
      for await (const chunk of this.#socket.iterator({ destroyOnReturn: false })) {
        for (const line of lines.push(chunk)) {
          await slice.pause();
          if (line === null) return this.#hangUp();
          this.#receive(line);
          await this.#room();
          if (this.#over.signal.aborted) return;
        }
      }
    } catch {
      return; // the connection is broken, and 'close' says so
    }
    this.#receive(lines.rest());
    this.#leave();
  }

  /** Nothing more is read; what was asked is still answered. */
  #leave(): void {
    this.#isLeaving = true;
    if (this.#inFlight === 0) this.#socket.destroySoon();
    else setTimeout(() => this.#over.abort(gone()), this.#limits.lingerMs).unref();
  }

  #receive(line: string): void {
    if (line.trim() === '') return;
    if (this.#inFlight >= this.#limits.inFlightMax) {
      const message = `${this.#inFlight} requests of this client are under way already`;
      this.#write(this.#dispatcher.refuse(line, message));
      return;
    }
    const bytes = line.length;
    this.#inFlight += 1;
    this.#inFlightBytes += bytes;
    const context: CallContext = { client: this, signal: this.#over.signal };
    void this.#dispatcher.answer(line, context).then((answer) => {
      this.#inFlight -= 1;
      this.#inFlightBytes -= bytes;
      if (answer !== null) this.#write(answer);
      if (this.#inFlight === 0 && (this.#isLeaving || this.#over.signal.aborted)) this.#socket.destroySoon();
      this.#wakeReader();
    });
  }

  /** Resolves when there is room for another request. */
  async #room(): Promise<void> {
    while (this.#isFull() && !this.#over.signal.aborted) {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#wake = resolve;
      await promise;
    }
  }

  #isFull(): boolean {
    const { inFlightMaxBytes, unreadPauseBytes } = this.#limits;
    return this.#inFlightBytes > inFlightMaxBytes || this.#socket.writableLength > unreadPauseBytes;
  }

  #wakeReader(): void {
    this.#wake?.();
    this.#wake = null;
  }

  /** After a line without end there is no telling where the next one begins. */
  #hangUp(): void {
    const { lineMaxBytes } = this.#limits;
    this.#write(refusal('rpc-no-json', `a line is longer than ${lineMaxBytes} bytes: the connection ends`));
    this.#leave();
  }

  #write(line: string): void {
    if (this.gone.aborted || this.#socket.writableEnded) return;
    if (this.#socket.writableLength > this.#limits.unreadMaxBytes) {
      this.#socket.destroy();
      return;
    }
    this.#socket.write(`${line}\n`);
  }

  #drained(): void {
    for (const [key, line] of this.#waitingNotifications) {
      if (this.#socket.writableNeedDrain) break;
      this.#waitingNotifications.delete(key);
      this.#write(line);
    }
    this.#wakeReader();
  }

  #ended(): void {
    this.#gone.abort(gone());
    this.#over.abort(gone());
    this.#waitingNotifications.clear();
    this.#wakeReader();
  }
}

function gone(): QmpvaultError {
  return new QmpvaultError('cancelled', 'the client has gone');
}
