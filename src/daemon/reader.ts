/**
 * Short questions about one vault, answered by a process that may hang in the NAS. If it does not answer in time, the NAS
 * is taken for away: the process is killed, and left behind if it cannot die; the next question goes to another.
 */
import { fileURLToPath } from 'node:url';
import { bounded } from '../base/deadline.ts';
import { type Details, type ErrorCode, QmpvaultError } from '../base/errors.ts';
import { NODE_FLAGS } from '../base/node-flags.ts';
import { startTalking, type TalkingProcess } from '../image/detached-process.ts';
import type { OperationName, Params, Result } from '../operations/index.ts';
import { onJsonLines } from './json-lines.ts';

const ENTRY = fileURLToPath(
  new URL(import.meta.url.endsWith('.ts') ? './reader-main.ts' : './reader-main.js', import.meta.url),
);
const ANSWER_MS = 10_000;
/** More of them would only hang beside these. */
const LEFT_BEHIND_MAX = 3;

export interface ReaderSite {
  readonly places: { readonly stateDir: string; readonly runtimeDir: string; readonly scratchDir: string };
  readonly qemuBin: string | null;
}

interface Answer {
  readonly id: number;
  readonly result?: unknown;
  readonly error?: { code: ErrorCode; message: string; details: Details };
}

export interface AskBound {
  readonly timeoutMs?: number | undefined;
  readonly signal?: AbortSignal | undefined;
  /** When no answer comes in time, where it is not the NAS alone that is waited for. */
  readonly code?: ErrorCode;
}

export class Reader {
  readonly #site: ReaderSite;
  readonly #what: string;
  #process: Promise<TalkingProcess> | null = null;
  #leftBehind = 0;
  #lastId = 0;
  readonly #open = new Map<number, PromiseWithResolvers<unknown>>();

  /** @param what it reads, for messages: `the vault nas` */
  constructor(site: ReaderSite, what: string) {
    this.#site = site;
    this.#what = what;
  }

  /** @throws `code` (default `vault-away`) when no answer comes in time; what the operation throws */
  async ask<N extends OperationName>(
    operation: N,
    params: Params<N>,
    { timeoutMs = ANSWER_MS, signal, code = 'vault-away' }: AskBound = {},
  ): Promise<Result<N>> {
    const reader = await this.#running();
    const id = ++this.#lastId;
    const answer = Promise.withResolvers<unknown>();
    this.#open.set(id, answer);
    reader.stdin.write(`${JSON.stringify({ id, operation, params })}\n`);
    const what = `${this.#what} to answer: does the NAS hang?`;
    let answered = true;
    try {
      return (await bounded(answer.promise, { timeoutMs, signal, what, code })) as Result<N>;
    } catch (error) {
      answered = !this.#open.has(id) || signal?.aborted === true;
      throw error;
    } finally {
      this.#open.delete(id);
      if (!answered) this.#giveUp(reader);
    }
  }

  /** Idempotent. What is asked now gets no answer. */
  async close(): Promise<void> {
    const reader = await this.#process?.catch(() => null);
    if (reader) this.#giveUp(reader);
  }

  #running(): Promise<TalkingProcess> {
    if (this.#process !== null) return this.#process;
    if (this.#leftBehind >= LEFT_BEHIND_MAX) {
      throw new QmpvaultError(
        'vault-away',
        `${this.#leftBehind} processes already hang in ${this.#what}: it is asked again when one has come back`,
      );
    }
    this.#process = this.#start();
    this.#process.catch(() => {
      this.#process = null;
    });
    return this.#process;
  }

  async #start(): Promise<TalkingProcess> {
    const child = await startTalking([process.execPath, ...NODE_FLAGS, ENTRY, JSON.stringify(this.#site)]);
    onJsonLines<Answer>(child.stdout, (answer) => this.#heed(answer));
    child.on('exit', () => this.#gone(child));
    return child;
  }

  #heed({ id, result, error }: Answer): void {
    const waiting = this.#open.get(id);
    this.#open.delete(id);
    if (error === undefined) waiting?.resolve(result);
    else waiting?.reject(new QmpvaultError(error.code, error.message, { details: error.details }));
  }

  /** It is no longer asked; whoever waits for it hears that it has gone. */
  #giveUp(reader: TalkingProcess): void {
    if (reader.exitCode !== null || reader.signalCode !== null) return;
    this.#leftBehind += 1;
    reader.once('exit', () => {
      this.#leftBehind -= 1;
    });
    this.#process = null;
    reader.kill('SIGKILL');
    reader.unref();
    this.#fail();
  }

  #gone(reader: TalkingProcess): void {
    void this.#process?.then((current) => {
      if (current !== reader) return;
      this.#process = null;
      this.#fail();
    });
  }

  #fail(): void {
    const error = new QmpvaultError('vault-away', `whoever reads ${this.#what} had to be ended: ask again`);
    for (const { promise, reject } of this.#open.values()) {
      promise.catch(() => {});
      reject(error);
    }
    this.#open.clear();
  }
}
