/**
 * The daemon's hand on a worker: started, or found again by a daemon that was started anew. Whatever the worker waits
 * for, nothing here does.
 */
import { rm } from 'node:fs/promises';
import { createConnection, type Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { NODE_FLAGS } from '../base/node-flags.ts';
import { endOf, kill, processIn, startDetached } from '../image/detached-process.ts';
import type { ProcessId } from '../image/process-id.ts';
import type { Progress } from '../operations/index.ts';
import { onJsonLines } from './json-lines.ts';
import { type Outcome, readOutcome, type Task, writeTask } from './task.ts';
import { isOnShare } from './task-of.ts';

/** Beside this file, as source in a checkout and compiled in a package. */
const ENTRY = fileURLToPath(
  new URL(import.meta.url.endsWith('.ts') ? './worker-main.ts' : './worker-main.js', import.meta.url),
);
/** Between two tries to reach a worker that has just been started. */
const RETRY_MS = 20;
/** Which process was started is written down by itself, right after it began. */
const START_MS = 10_000;

export interface WorkerPlace {
  /** Its folder, which is the daemon's alone. */
  readonly folder: string;
  readonly socket: string;
}

export class Worker {
  readonly id: ProcessId;
  /** null: it died without one, or was given up. Never rejects. */
  readonly ended: Promise<Outcome | null>;
  onProgress: (progress: Progress) => void = () => {};
  /** Of an operation that lasts until it is cancelled: what it answers, once it is at work. */
  readonly ready: Promise<Record<string, unknown>>;
  readonly #ready = Promise.withResolvers<Record<string, unknown>>();
  readonly #place: WorkerPlace;
  readonly #givenUp = Promise.withResolvers<null>();
  #socket: Socket | null = null;
  /** What was said before it could be heard: the last of each kind. */
  readonly #unsaid = new Map<string, object>();

  private constructor(id: ProcessId, place: WorkerPlace) {
    this.id = id;
    this.#place = place;
    this.ready = this.#ready.promise;
    this.ended = Promise.race([this.#follow(), this.#givenUp.promise]);
  }

  /** @throws internal when no process can be started */
  static async start(place: WorkerPlace, task: Omit<Task, 'format' | 'socket'>): Promise<Worker> {
    await writeTask(place.folder, { ...task, format: 1, socket: place.socket });
    const child = await startDetached(place.folder, [process.execPath, ...NODE_FLAGS, ENTRY, place.folder], {
      // Options meant for the daemon would only slow it down, or hinder it.
      env: { NODE_OPTIONS: '' },
      ownMounts: isOnShare(task),
    });
    const end = performance.now() + START_MS;
    for (;;) {
      const id = await processIn(place.folder);
      if (id !== null && id.pid === child.pid) return new Worker(id, place);
      if (child.exitCode !== null || performance.now() > end) {
        // One that comes to itself later would be a second one.
        child.kill('SIGKILL');
        return new Worker(id ?? { pid: 0, startTime: 0, bootId: '' }, place);
      }
      await delay(RETRY_MS);
    }
  }

  /** The worker that was started in this folder, dead or alive; null if none was. */
  static async find(place: WorkerPlace): Promise<Worker | null> {
    const id = await processIn(place.folder);
    return id === null ? null : new Worker(id, place);
  }

  cancel(why: string): void {
    this.#say('cancel', { cancel: why });
  }

  setBandwidth(bytesPerSecond: number | undefined): void {
    this.#say('bandwidth', { bandwidth: bytesPerSecond ?? null });
  }

  /** Kills it, and leaves it behind if it hangs in the kernel: then `ended` is null too. */
  async giveUp(): Promise<void> {
    await kill(this.id);
    this.#givenUp.resolve(null);
  }

  /** Lets go of it; it works on. */
  release(): void {
    this.#socket?.destroy();
    this.#givenUp.resolve(null);
  }

  #say(kind: string, message: object): void {
    if (this.#socket === null) this.#unsaid.set(kind, message);
    else this.#socket.write(`${JSON.stringify(message)}\n`);
  }

  async #follow(): Promise<Outcome | null> {
    let over = false;
    const death = endOf(this.id).then(() => {
      over = true;
    });
    while (!over && this.#socket === null) {
      if (!(await this.#connect())) await Promise.race([death, delay(RETRY_MS, undefined, { ref: false })]);
    }
    await death;
    // One that was killed could not.
    await rm(this.#place.socket, { force: true }).catch(() => {});
    return readOutcome(this.#place.folder).catch(() => null);
  }

  /** @returns whether it was reached */
  async #connect(): Promise<boolean> {
    const socket = createConnection(this.#place.socket);
    const { promise, resolve } = Promise.withResolvers<boolean>();
    socket.on('connect', () => resolve(true));
    socket.on('error', () => resolve(false));
    if (!(await promise)) return false;
    this.#socket = socket;
    onJsonLines<{ progress?: Progress; ready?: Record<string, unknown> }>(socket, ({ progress, ready }) => {
      if (progress !== undefined) this.onProgress(progress);
      if (ready !== undefined) this.#ready.resolve(ready);
    });
    for (const message of this.#unsaid.values()) socket.write(`${JSON.stringify(message)}\n`);
    this.#unsaid.clear();
    return true;
  }
}
