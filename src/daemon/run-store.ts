/**
 * The runs of this host, in memory and on local disk: one file for each, written durably before anybody is told of its
 * new state. A daemon that was killed finds here what it was doing.
 */
import { mkdir, readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Clock } from '../base/clock.ts';
import { messageOf, QmpvaultError } from '../base/errors.ts';
import { newRunId, type RunId } from '../base/ids.ts';
import type { Log } from '../base/log.ts';
import type { ReachStep, Step } from '../base/steps.ts';
import type { Progress } from '../operations/index.ts';
import { sweepTemporaries, writeFileDurably } from '../vault/durable.ts';
import { surplusRuns } from './run-history.ts';
import {
  afterEvent,
  type NewRun,
  newRunRecord,
  parseRunRecord,
  type RunEvent,
  type RunRecord,
} from './run-record.ts';
import { isEnded, type RunEventType } from './run-state.ts';

export interface RunStoreOptions {
  readonly stateDir: string;
  readonly clock: Clock;
  readonly log: Log;
  readonly reachStep: ReachStep;
  /** What else there is of a run goes with its record. */
  readonly onForgotten?: (id: RunId) => Promise<void>;
  /** Ended runs that are remembered. */
  readonly keep?: { readonly perVm: number; readonly overall: number };
}

const STEP_OF = {
  queued: 'run-queued',
  started: 'run-started',
  noted: 'run-noted',
  cancelRequested: 'run-cancel-requested',
  finished: 'run-finished',
  failed: 'run-failed',
  stopped: 'run-stopped',
  postponed: 'run-postponed',
  lost: 'run-lost',
} as const satisfies Record<'queued' | RunEventType, Step>;

export class RunStore {
  readonly #options: Required<RunStoreOptions>;
  readonly #folder: string;
  readonly #runs = new Map<RunId, RunRecord>();
  readonly #byRequest = new Map<string, RunId>();
  /** What is being written for a run: one after the other. */
  readonly #writes = new Map<RunId, Promise<unknown>>();

  private constructor(options: RunStoreOptions) {
    this.#options = { keep: { perVm: 100, overall: 2000 }, onForgotten: async () => {}, ...options };
    this.#folder = join(options.stateDir, 'daemon', 'runs');
  }

  /** Reads all that is there; a file that cannot be read is left where it is, and the log tells. @throws state-unwritable */
  static async open(options: RunStoreOptions): Promise<RunStore> {
    const store = new RunStore(options);
    await store.#load().catch((error: unknown) => {
      throw unwritable(store.#folder, error);
    });
    return store;
  }

  get(id: RunId): RunRecord | undefined {
    return this.#runs.get(id);
  }

  /** In the order in which they were asked for. */
  all(): RunRecord[] {
    return [...this.#runs.values()];
  }

  /** Neither ended well nor otherwise. */
  active(): RunRecord[] {
    return this.all().filter(({ state }) => !isEnded(state));
  }

  byRequest(requestId: string): RunRecord | undefined {
    const id = this.#byRequest.get(requestId);
    return id && this.#runs.get(id);
  }

  /**
   * A new run in the queue; or the one that was made for this requestId before, also while that is still being written.
   * @param options.again one that has ended is history: a new one takes its place
   * @throws state-unwritable, and then there is none
   */
  async create(run: NewRun, options: { again?: boolean } = {}): Promise<RunRecord> {
    const { requestId = null } = run;
    const known = requestId === null ? undefined : this.#byRequest.get(requestId);
    if (known !== undefined) {
      await this.#writes.get(known);
      const record = this.#runs.get(known);
      if (record !== undefined && !(options.again && isEnded(record.state))) return record;
      // Somebody else may have been faster.
      if (requestId !== null && this.#byRequest.get(requestId) === known) this.#byRequest.delete(requestId);
      return this.create(run, options);
    }
    const id = this.#freeId();
    const record = newRunRecord(id, run, this.#options.clock());
    if (requestId !== null) this.#byRequest.set(requestId, id);
    try {
      return await this.#afterOthers(id, () => this.#write(record, 'queued'));
    } catch (error) {
      if (requestId !== null) this.#byRequest.delete(requestId);
      throw error;
    }
  }

  /**
   * Lets something happen to a run. Durable when it returns; when it throws, nothing has changed.
   * @param onEnded called, once in a run's life, when this is what ended it
   * @throws internal for what cannot happen in its state; run-unknown; state-unwritable
   */
  async apply(id: RunId, event: RunEvent, onEnded?: (record: RunRecord) => void): Promise<RunRecord> {
    const after = await this.#afterOthers(id, async () => {
      const before = this.#runs.get(id);
      if (before === undefined) throw new QmpvaultError('run-unknown', `there is no run ${id}`);
      const after = afterEvent(before, event, this.#options.clock());
      if (after === before) return before;
      const written = await this.#write(after, event.type);
      if (isEnded(after.state) && !isEnded(before.state)) onEnded?.(written);
      return written;
    });
    if (isEnded(after.state)) await this.#forgetOld();
    return after;
  }

  /** In memory only: it changes five times per second. It is written with whatever happens next. */
  setProgress(id: RunId, progress: Progress): void {
    const record = this.#runs.get(id);
    if (record !== undefined && !isEnded(record.state)) this.#runs.set(id, { ...record, progress });
  }

  async #load(): Promise<void> {
    await mkdir(this.#folder, { recursive: true, mode: 0o700 });
    await sweepTemporaries(this.#folder);
    const names = (await readdir(this.#folder)).filter((name) => name.endsWith('.json'));
    const records: RunRecord[] = [];
    for (const name of names) {
      const file = join(this.#folder, name);
      const record = parseRunRecord(await readFile(file, 'utf8').catch(() => ''));
      if (record !== null && name === `${record.id}.json`) records.push(record);
      else this.#options.log.warn({ file }, 'this record of a run cannot be read and is left alone');
    }
    records.sort((a, b) => a.createdAt.localeCompare(b.createdAt));
    for (const record of records) {
      this.#runs.set(record.id, record);
      if (record.requestId !== null) this.#byRequest.set(record.requestId, record.id);
    }
    await this.#forgetOld();
  }

  async #write(record: RunRecord, what: keyof typeof STEP_OF): Promise<RunRecord> {
    const file = this.#fileOf(record.id);
    await this.#options.reachStep(STEP_OF[what]);
    await writeFileDurably(file, `${JSON.stringify(record, null, 2)}\n`).catch((error: unknown) => {
      throw unwritable(file, error);
    });
    // What came in meanwhile.
    const progress = record.progress && (this.#runs.get(record.id)?.progress ?? record.progress);
    this.#runs.set(record.id, { ...record, progress });
    return record;
  }

  async #afterOthers<T>(id: RunId, work: () => Promise<T>): Promise<T> {
    const before = this.#writes.get(id) ?? Promise.resolve();
    const mine = before.then(work, work);
    const settled = mine.catch(() => {});
    this.#writes.set(id, settled);
    try {
      return await mine;
    } finally {
      if (this.#writes.get(id) === settled) this.#writes.delete(id);
    }
  }

  async #forgetOld(): Promise<void> {
    for (const { id, requestId } of surplusRuns(this.all(), this.#options.keep, this.#options.clock())) {
      this.#runs.delete(id);
      if (requestId !== null && this.#byRequest.get(requestId) === id) this.#byRequest.delete(requestId);
      // One that comes back after a power failure is only forgotten once more.
      try {
        await this.#options.onForgotten(id);
        await rm(this.#fileOf(id), { force: true });
      } catch (error) {
        this.#options.log.warn({ run: id, reason: messageOf(error) }, 'an old record cannot be removed');
      }
    }
  }

  #fileOf(id: RunId): string {
    return join(this.#folder, `${id}.json`);
  }

  #freeId(): RunId {
    for (;;) {
      const id = newRunId();
      if (!this.#runs.has(id) && !this.#writes.has(id)) return id;
    }
  }
}

function unwritable(path: string, cause: unknown): QmpvaultError {
  return new QmpvaultError(
    'state-unwritable',
    `the daemon's own state in ${path} cannot be written: ${messageOf(cause)}`,
    { details: { path }, cause },
  );
}
