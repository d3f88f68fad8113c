/**
 * The runs of this daemon, from being asked for to their end. What a run is and what may happen to it next is the
 * store's; who may begin is the queue's; the work is a worker's. Here they are brought together, and it is here that a
 * daemon that was started anew finds its workers again.
 */
import { setTimeout as delay } from 'node:timers/promises';
import type { Clock } from '../base/clock.ts';
import { bounded } from '../base/deadline.ts';
import { codeOf, errorJson, messageOf, QmpvaultError } from '../base/errors.ts';
import type { RunId } from '../base/ids.ts';
import type { Log } from '../base/log.ts';
import type { RetryConfig } from '../config/config.ts';
import type { Admission } from './queue.ts';
import { afterFailure, afterLoss } from './retry.ts';
import type { NewRun, RunError, RunEvent, RunRecord } from './run-record.ts';
import { isEnded } from './run-state.ts';
import type { RunStore } from './run-store.ts';
import { forgetAttempt, type Outcome, type Task } from './task.ts';
import { Worker, type WorkerPlace } from './worker.ts';

export interface RunsOptions {
  readonly store: RunStore;
  readonly clock: Clock;
  readonly log: Log;
  readonly placeOf: (id: RunId) => WorkerPlace;
  /** Makes ready what a run works on, and says what its worker is to do. @throws what keeps it from beginning */
  readonly taskOf: (record: RunRecord, signal: AbortSignal) => Promise<Omit<Task, 'format' | 'socket'>>;
  readonly admit: (active: readonly RunRecord[], now: Date) => Admission;
  readonly retriesOf: (record: RunRecord) => RetryConfig;
  /** Bytes per second of each running run; null: no limit. */
  readonly shareBandwidth: (running: readonly RunRecord[]) => ReadonlyMap<RunId, number | null>;
  readonly onProgress?: (record: RunRecord) => void;
  readonly onEnd?: (record: RunRecord) => void;
}

/** A worker that was told to end and does not is given up after this time; its death may take two seconds more. */
const CANCEL_MS = 3_000;
const WRITE_AGAIN_MS = 5_000;
/** The system's clock may jump: the queue is asked again anyway. */
const LOOK_AGAIN_MS = 60_000;

export class Runs {
  readonly #options: RunsOptions;
  /** Runs that have begun and have no worker yet. */
  readonly #preparing = new Map<RunId, AbortController>();
  readonly #workers = new Map<RunId, Worker>();
  /** What follows each running run to its end. */
  readonly #following = new Map<RunId, Promise<void>>();
  #waiting: ReadonlyMap<RunId, string> = new Map();
  #timer: NodeJS.Timeout | undefined;
  /** Scheduled runs that are ended because the daemon ends. */
  readonly #interrupted = new Set<RunId>();
  /** No run begins any more. */
  #closing = false;
  /** Workers are let go: what becomes of them is the next daemon's business. */
  #released = false;

  constructor(options: RunsOptions) {
    this.#options = options;
  }

  /** Once, before anything else: finds the workers of the runs that the last daemon was following. */
  async recover(): Promise<void> {
    for (const { id, state } of this.#options.store.active()) {
      if (state === 'queued') continue;
      const worker = await Worker.find(this.#options.placeOf(id));
      this.#follow(id, worker === null ? this.#died(id) : this.#attend(id, worker));
    }
    this.#look();
  }

  /** Durable when it returns. A second one with the same requestId is the first. @throws state-unwritable, internal */
  async start(run: NewRun, options: { again?: boolean } = {}): Promise<RunRecord> {
    if (this.#closing)
      throw new QmpvaultError('daemon-stopping', 'the daemon is being stopped: ask again later');
    const record = await this.#options.store.create(run, options);
    this.#look();
    return record;
  }

  /** @throws run-unknown */
  get(id: string): RunRecord {
    const record = this.#options.store.get(id as RunId);
    if (record !== undefined) return record;
    throw new QmpvaultError('run-unknown', `there is no run ${id}, or it was forgotten since`, {
      details: { runId: id },
    });
  }

  /** Why a queued run does not begin. */
  whyWaiting(id: RunId): string | null {
    return this.#waiting.get(id) ?? null;
  }

  /** Resolves with the run when it has ended, or when the time is up. @throws run-unknown, cancelled */
  async wait(
    id: string,
    { timeoutMs, signal }: { timeoutMs?: number | undefined; signal?: AbortSignal | undefined },
  ): Promise<RunRecord> {
    const record = this.get(id);
    if (isEnded(record.state)) return record;
    const ended = this.#endOf(record.id, signal);
    const what = `the end of run ${id}`;
    await bounded(ended, { timeoutMs, signal, what, code: 'run-stalled' }).catch((error: unknown) => {
      if (codeOf(error) !== 'run-stalled') throw error;
    });
    return this.get(id);
  }

  /** It ends within five seconds, whatever it waits for. Of an ended one it changes nothing. @throws run-unknown */
  async cancel(id: string, why = 'somebody asked for it'): Promise<RunRecord> {
    const { id: known } = this.get(id);
    const record = await this.#options.store.apply(known, { type: 'cancelRequested' }, (it) =>
      this.#ended(it),
    );
    if (record.state === 'cancelling') this.#stop(known, why);
    return record;
  }

  /** In place of what it was asked for with; durable. Of an ended one it changes nothing. @throws run-unknown, state-unwritable */
  async setBandwidth(id: string, bandwidth: number | null): Promise<RunRecord> {
    const { id: known } = this.get(id);
    await this.#options.store.apply(known, { type: 'noted', bandwidth }).catch((error: unknown) => {
      if (!isEnded(this.get(id).state)) throw error;
    });
    this.#share();
    return this.get(id);
  }

  /** After the limits, the blackouts or the bandwidth changed. */
  reconsider(): void {
    this.#look();
    this.#share();
  }

  /**
   * No run begins any more. The running ones end by themselves, or are cancelled when the time is up. Idempotent.
   * @param graceMs null: they are let go and work on, for the next daemon to find
   */
  async close(graceMs: number | null): Promise<void> {
    this.#closing = true;
    clearTimeout(this.#timer);
    if (graceMs === null) {
      this.#released = true;
      for (const worker of this.#workers.values()) worker.release();
      return;
    }
    const all = Promise.all(this.#following.values());
    const isOver = await bounded(all, { timeoutMs: graceMs, what: 'the end of the runs' }).then(
      () => true,
      () => false,
    );
    if (isOver) return;
    const running = this.#options.store.active().filter(({ state }) => state !== 'queued');
    const why = 'the daemon was stopped';
    for (const { id, cause } of running) {
      if (cause === 'requested') void this.cancel(id, why).catch(() => {});
      else {
        this.#interrupted.add(id);
        this.#stop(id, why);
      }
    }
    await Promise.all(this.#following.values());
  }

  /** What may begin now does. */
  #look(): void {
    clearTimeout(this.#timer);
    if (this.#closing) return;
    const { store, admit, clock } = this.#options;
    const now = clock();
    // One that begins takes its place at once, though its record may still be being written.
    const active = store
      .active()
      .map((run): RunRecord => (this.#following.has(run.id) ? { ...run, state: 'running' } : run));
    const { start, waiting, expired, again } = admit(active, now);
    this.#waiting = waiting;
    for (const { id } of start) this.#follow(id, this.#begin(id));
    for (const [id, why] of expired) this.#follow(id, this.#waitedInVain(id, why));
    const inMs = again === null ? LOOK_AGAIN_MS : again.getTime() - now.getTime();
    this.#timer = setTimeout(() => this.#look(), Math.min(Math.max(inMs, 10), LOOK_AGAIN_MS));
    this.#timer.unref();
  }

  #follow(id: RunId, work: Promise<void>): void {
    const followed = work
      .catch(async (error: unknown) => {
        this.#options.log.warn({ run: id, code: codeOf(error) }, messageOf(error));
        // It is still queued, and would be begun again at once.
        await delay(WRITE_AGAIN_MS, undefined, { ref: false });
      })
      .finally(() => {
        this.#following.delete(id);
        this.#workers.delete(id);
        if (this.#released) return;
        this.#share();
        this.#look();
      });
    this.#following.set(id, followed);
  }

  async #begin(id: RunId): Promise<void> {
    const { store, taskOf, placeOf } = this.#options;
    // Of the attempt before: found after a crash, it would be taken for this one's.
    await forgetAttempt(placeOf(id).folder);
    const record = await store.apply(id, { type: 'started' });
    const preparing = new AbortController();
    this.#preparing.set(id, preparing);
    let worker: Worker;
    try {
      const { signal } = preparing;
      const task = await bounded(taskOf(record, signal), { signal, what: 'what the run needs' });
      worker = await Worker.start(placeOf(id), task);
    } catch (error) {
      return this.#failed(id, errorJson(error));
    } finally {
      this.#preparing.delete(id);
    }
    const noted = store.apply(id, { type: 'noted', worker: worker.id });
    await Promise.all([noted.catch(() => {}), this.#attend(id, worker)]);
  }

  async #attend(id: RunId, worker: Worker): Promise<void> {
    const { store, onProgress } = this.#options;
    this.#workers.set(id, worker);
    worker.onProgress = (progress) => {
      store.setProgress(id, progress);
      const record = store.get(id);
      if (record !== undefined && !isEnded(record.state)) onProgress?.(record);
    };
    if (store.get(id)?.state === 'cancelling') this.#stop(id, 'somebody asked for it');
    this.#share();
    const outcome = await worker.ended;
    if (this.#released) return;
    await (outcome === null ? this.#died(id) : this.#finished(id, outcome));
  }

  async #finished(id: RunId, outcome: Outcome): Promise<void> {
    if (!outcome.ok) return this.#failed(id, outcome.error);
    const { result } = outcome;
    const warnings = Array.isArray(result['warnings']) ? result['warnings'].map(String) : [];
    await this.#happen(id, { type: 'finished', result, point: pointOf(result), warnings });
  }

  async #failed(id: RunId, error: RunError): Promise<void> {
    const record = this.get(id);
    const { retriesOf, clock } = this.#options;
    const event = afterFailure(record, error, retriesOf(record), clock());
    // Nobody wanted it to end but the daemon itself, which takes it up again when it is back.
    const isInterrupted = event.type === 'stopped' && this.#interrupted.has(id);
    await this.#happen(
      id,
      isInterrupted ? { type: 'postponed', error, notBefore: clock().toISOString() } : event,
    );
  }

  #waitedInVain(id: RunId, why: string): Promise<void> {
    const message = `it could not begin in the time that it was to wait: ${why}`;
    const error: RunError = { code: 'run-busy', message, details: { runId: id } };
    return this.#happen(id, { type: 'failed', error });
  }

  /** Without a word. The next worker finds what it left, finishes its point or cleans up after it. */
  async #died(id: RunId): Promise<void> {
    const record = this.get(id);
    const error: RunError = {
      code: 'worker-lost',
      message: `the worker of run ${id} died in the middle of its work; the log of the run may say why`,
      details: { attempts: record.attempts },
    };
    await this.#happen(id, afterLoss(record, error));
  }

  async #happen(id: RunId, event: RunEvent): Promise<void> {
    for (;;) {
      try {
        await this.#options.store.apply(id, event, (record) => this.#ended(record));
        return;
      } catch (error) {
        // A disk that is full now would keep the run, and so the VM, for ever.
        if (codeOf(error) !== 'state-unwritable' || this.#released) throw error;
        await delay(WRITE_AGAIN_MS, undefined, { ref: false });
      }
    }
  }

  #ended(record: RunRecord): void {
    const { id, what, vm, state, error } = record;
    this.#options.log.info({ run: id, what, vm, state, code: error?.code }, `run ${state}`);
    for (const resolve of this.#waiters.get(id) ?? []) resolve();
    this.#waiters.delete(id);
    this.#options.onEnd?.(record);
  }

  readonly #waiters = new Map<RunId, (() => void)[]>();

  #endOf(id: RunId, signal: AbortSignal | undefined): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#waiters.set(id, [...(this.#waiters.get(id) ?? []), resolve]);
    signal?.addEventListener('abort', () => this.#forgetWaiter(id, resolve), { once: true });
    return promise;
  }

  #forgetWaiter(id: RunId, waiter: () => void): void {
    const others = (this.#waiters.get(id) ?? []).filter((other) => other !== waiter);
    if (others.length > 0) this.#waiters.set(id, others);
    else this.#waiters.delete(id);
  }

  #stop(id: RunId, why: string): void {
    this.#preparing.get(id)?.abort(new QmpvaultError('cancelled', why));
    const worker = this.#workers.get(id);
    if (worker === undefined) return;
    worker.cancel(why);
    const timer = setTimeout(() => {
      this.#options.log.warn({ run: id }, 'the worker does not end: it is given up');
      void worker.giveUp();
    }, CANCEL_MS);
    void worker.ended.then(() => clearTimeout(timer));
  }

  #share(): void {
    const running = this.#options.store.active().filter(({ id }) => this.#workers.has(id));
    for (const [id, bytesPerSecond] of this.#options.shareBandwidth(running)) {
      this.#workers.get(id)?.setBandwidth(bytesPerSecond ?? undefined);
    }
  }
}

function pointOf(result: Readonly<Record<string, unknown>>): string | null {
  const point = result['point'];
  const id = typeof point === 'object' && point !== null && 'id' in point ? point.id : null;
  return typeof id === 'string' ? id : null;
}
