/** What the daemon tells unasked, in order, for one who listens. Bounded: what nobody takes pushes the oldest out. */
import { bounded } from '../base/deadline.ts';
import { QmpvaultError } from '../base/errors.ts';
import type { NotificationName, NotificationParams } from './methods.ts';

export type Notification = {
  readonly [N in NotificationName]: { readonly method: N; readonly params: NotificationParams<N> };
}[NotificationName];

const CAPACITY = 1024;

export class NotificationListener implements AsyncIterable<Notification> {
  readonly #names: readonly string[];
  readonly #onClose: () => void;
  readonly #queue: Notification[] = [];
  #arrival = Promise.withResolvers<void>();
  #ended: QmpvaultError | null = null;

  /** Made by RpcClient.listen(). */
  constructor(names: readonly NotificationName[], onClose: () => void) {
    this.#names = names;
    this.#onClose = onClose;
  }

  /** Also those that arrived before the connection ended. @throws daemon-lost, daemon-timeout, cancelled */
  async next({
    signal,
    timeoutMs,
  }: {
    signal?: AbortSignal | undefined;
    timeoutMs?: number | undefined;
  } = {}): Promise<Notification> {
    for (;;) {
      const first = this.#queue.shift();
      if (first !== undefined) return first;
      if (this.#ended !== null) throw this.#ended;
      const what = 'the daemon to tell something';
      await bounded(this.#arrival.promise, { signal, timeoutMs, what, code: 'daemon-timeout' });
    }
  }

  /** Ends when it is closed; throws when the connection is lost. */
  async *[Symbol.asyncIterator](): AsyncGenerator<Notification, void> {
    for (;;) {
      try {
        yield await this.next();
      } catch (error) {
        if (this.#ended?.code === 'cancelled') return;
        throw error;
      }
    }
  }

  close(): void {
    this.#onClose();
    this.end(new QmpvaultError('cancelled', 'this listener was closed'));
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /** Called by the client. */
  push(notification: Notification): void {
    if (!this.#names.includes(notification.method)) return;
    this.#queue.push(notification);
    if (this.#queue.length > CAPACITY) this.#queue.shift();
    this.#wake();
  }

  /** Called by the client. */
  end(reason: QmpvaultError): void {
    this.#ended ??= reason;
    this.#wake();
  }

  #wake(): void {
    this.#arrival.resolve();
    this.#arrival = Promise.withResolvers();
  }
}
