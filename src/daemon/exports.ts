/**
 * Points that are served over NBD for somebody, each by a worker of its own. They outlive the daemon as runs do: a guest
 * may be running from one.
 */
import { randomBytes } from 'node:crypto';
import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { bounded } from '../base/deadline.ts';
import { QmpvaultError } from '../base/errors.ts';
import type { ResultJson } from '../rpc/results.ts';
import type { Task } from './task.ts';
import { Worker, type WorkerPlace } from './worker.ts';

export interface ExportsOptions {
  readonly stateDir: string;
  readonly runtimeDir: string;
  readonly site: Pick<Task, 'places' | 'qemuBin' | 'logLevel'>;
}

export type Export = ResultJson<'serve'> & { readonly exportId: string };

const READY_MS = 60_000;
const STOP_MS = 5_000;

export class Exports {
  readonly #options: ExportsOptions;
  readonly #workers = new Map<string, Worker>();
  readonly #served = new Map<string, ResultJson<'serve'>>();

  constructor(options: ExportsOptions) {
    this.#options = options;
  }

  /** Finds those of the last daemon. */
  async recover(): Promise<void> {
    const ids = (await readdir(this.#folder).catch(() => [])).filter((name) => /^[0-9a-f]{8}$/.test(name));
    for (const id of ids) {
      const worker = await Worker.find(this.#placeOf(id));
      if (worker === null) await this.#forget(id);
      else this.#keep(id, worker);
    }
  }

  /**
   * @param vault stays in use until the export ends
   * @param params of the operation `serve`, without the vault
   * @throws what the operation throws
   */
  async start(
    vault: Disposable & { readonly path: string },
    params: Record<string, unknown>,
    signal?: AbortSignal,
  ): Promise<Export> {
    const id = randomBytes(4).toString('hex');
    const worker = await Worker.start(this.#placeOf(id), {
      ...this.#options.site,
      run: id,
      operation: 'serve',
      params: { vault: vault.path, ...params },
    }).catch((error: unknown) => {
      vault[Symbol.dispose]();
      throw error;
    });
    this.#keep(id, worker);
    void worker.ended.then(() => vault[Symbol.dispose]());
    try {
      const ended = worker.ended.then((outcome): never => {
        if (outcome?.ok === false) {
          const { code, message, details } = outcome.error;
          throw new QmpvaultError(code, message, { details });
        }
        throw new QmpvaultError('worker-lost', 'the process that was to serve the point ended before it did');
      });
      const ready = Promise.race([worker.ready, ended]);
      const what = 'the point to be served: does the NAS hang?';
      const served = await bounded(ready, { timeoutMs: READY_MS, signal, what, code: 'vault-away' });
      return { ...(served as ResultJson<'serve'>), exportId: id };
    } catch (error) {
      await worker.giveUp();
      throw error;
    }
  }

  /** Those that are served now; one that is still being made is not among them. */
  list(): readonly Export[] {
    return [...this.#served].map(([exportId, served]) => ({ ...served, exportId }));
  }

  /** @throws export-unknown */
  async stop(id: string): Promise<void> {
    const worker = this.#workers.get(id);
    if (worker === undefined) {
      throw new QmpvaultError('export-unknown', `nothing is served as ${id}`, { details: { exportId: id } });
    }
    worker.cancel('nobody needs it any more');
    const ended = bounded(worker.ended, { timeoutMs: STOP_MS, what: 'the end of the export' });
    await ended.catch(() => worker.giveUp());
  }

  /** Lets go of them; they serve on. */
  release(): void {
    for (const worker of this.#workers.values()) worker.release();
    this.#workers.clear();
  }

  #keep(id: string, worker: Worker): void {
    this.#workers.set(id, worker);
    // Also a worker of the last daemon says it, as soon as it is reached.
    void worker.ready.then((served) => {
      if (this.#workers.get(id) === worker) this.#served.set(id, served as ResultJson<'serve'>);
    });
    void worker.ended.then(() => {
      if (this.#workers.get(id) === worker) void this.#forget(id);
    });
  }

  async #forget(id: string): Promise<void> {
    this.#workers.delete(id);
    this.#served.delete(id);
    await rm(this.#placeOf(id).folder, { recursive: true, force: true }).catch(() => {});
  }

  get #folder(): string {
    return join(this.#options.stateDir, 'daemon', 'exports');
  }

  #placeOf(id: string): WorkerPlace {
    return { folder: join(this.#folder, id), socket: join(this.#options.runtimeDir, `x-${id}.sock`) };
  }
}
