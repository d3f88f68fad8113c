/**
 * One FIFO of events per listener. Open it before the command whose events it is to see: between the two nothing
 * is lost. Bounded: what nobody takes pushes the oldest out, and is counted.
 */
import { arm, type Bound, throwIfAborted } from './deadline.ts';
import { QmpError } from './errors.ts';
import type { QmpEvent } from './message.ts';

/** One chunk of the socket (64 KiB) holds fewer events than this, so who awaits them one by one drops none. */
const CAPACITY = 1024;

interface Waiter {
  readonly resolve: (event: QmpEvent) => void;
  readonly reject: (error: QmpError) => void;
}

export class EventListener implements AsyncIterable<QmpEvent> {
  readonly #wanted: (event: QmpEvent) => boolean;
  readonly #onClose: (listener: EventListener) => void;
  readonly #waiters = new Set<Waiter>();
  #queue: QmpEvent[] = [];
  #ended: { readonly reason: QmpError | null } | undefined;
  #dropped = 0;

  /** Made by QmpClient.listen(). */
  constructor(wanted: (event: QmpEvent) => boolean, onClose: (listener: EventListener) => void) {
    this.#wanted = wanted;
    this.#onClose = onClose;
  }

  /** How many events were lost because nobody took them. */
  get dropped(): number {
    return this.#dropped;
  }

  /**
   * The next event, oldest first; also those that arrived before the connection ended.
   * @throws qmp-timeout, qmp-aborted, qmp-closed (this listener or the connection is closed), qmp-protocol
   */
  async next({ timeoutMs, signal }: Bound = {}): Promise<QmpEvent> {
    throwIfAborted(signal, 'an event');
    const queued = this.#queue.shift();
    if (queued) return queued;
    if (this.#ended) throw this.#ended.reason ?? closed();
    const { promise, resolve, reject } = Promise.withResolvers<QmpEvent>();
    const waiter = { resolve, reject };
    this.#waiters.add(waiter);
    const disarm = arm({ timeoutMs, signal }, 'an event', (error) => {
      this.#waiters.delete(waiter);
      reject(error);
    });
    try {
      return await promise;
    } finally {
      disarm();
    }
  }

  /** All that has arrived and was not taken yet. */
  take(): QmpEvent[] {
    const events = this.#queue;
    this.#queue = [];
    return events;
  }

  close(): void {
    this.#onClose(this);
    this.#queue = [];
    this.end(null);
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /** Ends when the listener or the client is closed by its owner; throws when the connection is lost. */
  async *[Symbol.asyncIterator](): AsyncGenerator<QmpEvent, void> {
    for (;;) {
      let event: QmpEvent;
      try {
        event = await this.next();
      } catch (error) {
        if (this.#ended?.reason === null) return;
        throw error;
      }
      yield event;
    }
  }

  /** Called by the client. */
  push(event: QmpEvent): void {
    if (this.#ended || !this.#wanted(event)) return;
    const [waiter] = this.#waiters;
    if (waiter) {
      this.#waiters.delete(waiter);
      waiter.resolve(event);
      return;
    }
    this.#queue.push(event);
    if (this.#queue.length > CAPACITY) {
      this.#queue.shift();
      this.#dropped += 1;
    }
  }

  /** Called by the client when the connection has ended; null: by its owner's wish. */
  end(reason: QmpError | null): void {
    this.#ended ??= { reason };
    for (const waiter of this.#waiters) waiter.reject(reason ?? closed());
    this.#waiters.clear();
  }
}

function closed(): QmpError {
  return new QmpError('qmp-closed', 'the event listener is closed');
}
