/**
 * Who is told of which runs. At most five times per second and run: what comes in between is told with what follows it.
 * The end of a run is told at once, and after it nothing more.
 */
import { QmpvaultError } from '../base/errors.ts';
import type { NotificationName } from '../rpc/methods.ts';
import type { Run } from '../rpc/run.ts';
import type { RpcPeer } from '../rpc/server.ts';

const TELL_EVERY_MS = 200;
/** Of one connection. */
const SUBSCRIPTIONS_MAX = 100;

interface Subscription {
  readonly subscriber: RpcPeer;
  readonly runId: string | undefined;
  readonly vm: string | undefined;
}

export class Subscriptions {
  readonly #subscriptions = new Map<string, Subscription>();
  /** Runs of which something was told just now, with what has come since. */
  readonly #quiet = new Map<string, { latest: (() => Run) | null; readonly timer: NodeJS.Timeout }>();
  /** Connections whose end is listened for already. */
  readonly #watched = new WeakSet<RpcPeer>();
  #lastId = 0;

  /** @param known what is told first @throws daemon-busy */
  add(
    subscriber: RpcPeer,
    wish: { runId?: string | undefined; vm?: string | undefined },
    known: readonly Run[],
  ): string {
    const ofIt = [...this.#subscriptions.values()].filter((other) => other.subscriber === subscriber);
    if (ofIt.length >= SUBSCRIPTIONS_MAX) {
      throw new QmpvaultError('daemon-busy', `one connection may have ${SUBSCRIPTIONS_MAX} subscriptions`);
    }
    const id = `s${++this.#lastId}`;
    const subscription = { subscriber, runId: wish.runId, vm: wish.vm };
    this.#subscriptions.set(id, subscription);
    this.#watch(subscriber);
    for (const run of known.filter((run) => concerns(subscription, run))) tell(subscriber, run);
    return id;
  }

  #watch(subscriber: RpcPeer): void {
    if (this.#watched.has(subscriber)) return;
    this.#watched.add(subscriber);
    const forget = () => {
      for (const [id, other] of this.#subscriptions) {
        if (other.subscriber === subscriber) this.#subscriptions.delete(id);
      }
    };
    subscriber.gone.addEventListener('abort', forget, { once: true });
  }

  /** @returns whether there was one, of this connection */
  remove(subscriber: RpcPeer, id: string): boolean {
    return this.#subscriptions.get(id)?.subscriber === subscriber && this.#subscriptions.delete(id);
  }

  /** @param run made only when it is told */
  progressed(id: string, run: () => Run): void {
    if (this.#subscriptions.size === 0) return;
    const quiet = this.#quiet.get(id);
    if (quiet !== undefined) {
      quiet.latest = run;
      return;
    }
    const timer = setTimeout(() => {
      const latest = this.#quiet.get(id)?.latest;
      this.#quiet.delete(id);
      if (latest) this.progressed(id, latest);
    }, TELL_EVERY_MS);
    this.#quiet.set(id, { latest: null, timer });
    this.#tell(run());
  }

  ended(run: Run): void {
    clearTimeout(this.#quiet.get(run.id)?.timer);
    this.#quiet.delete(run.id);
    this.#tell(run);
  }

  close(): void {
    for (const { timer } of this.#quiet.values()) clearTimeout(timer);
    this.#quiet.clear();
    this.#subscriptions.clear();
  }

  #tell(run: Run): void {
    const concerned = new Set(
      [...this.#subscriptions.values()]
        .filter((one) => concerns(one, run))
        .map(({ subscriber }) => subscriber),
    );
    for (const subscriber of concerned) tell(subscriber, run);
  }
}

function concerns({ runId, vm }: Subscription, run: Run): boolean {
  return (runId === undefined || runId === run.id) && (vm === undefined || vm === run.vm);
}

function tell(subscriber: RpcPeer, run: Run): void {
  const name: NotificationName = run.endedAt === null ? 'run.progress' : 'run.finished';
  // Of each run a slow reader is told the last only; but that it ended is told for itself.
  subscriber.notify(name, { run }, `${name} ${run.id}`);
}
