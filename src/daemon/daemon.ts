/**
 * The daemon: its parts put together, and what happens by itself. It touches no NAS and waits for no VM without a deadline;
 * both are the business of workers and readers. So it answers while a NAS hangs.
 */
import { mkdir, rm } from 'node:fs/promises';
import type { Server } from 'node:net';
import { join } from 'node:path';
import { CleanupStack } from '../base/cleanup-stack.ts';
import type { Clock } from '../base/clock.ts';
import { codeOf, messageOf } from '../base/errors.ts';
import type { RunId } from '../base/ids.ts';
import type { Log } from '../base/log.ts';
import type { ReachStep } from '../base/steps.ts';
import { VERSION } from '../base/version.ts';
import { describeChanges } from '../config/changes.ts';
import type { Config, VerifyConfig } from '../config/config.ts';
import { readConfig } from '../config/read-config.ts';
import { METHODS } from '../rpc/methods.ts';
import type { Run } from '../rpc/run.ts';
import { inheritedSocket, RpcServer } from '../rpc/server.ts';
import type { DaemonStatus } from '../rpc/status.ts';
import { shareBandwidth } from './bandwidth.ts';
import { Exports } from './exports.ts';
import { handlers } from './handlers.ts';
import { Hooks } from './hooks.ts';
import { Metrics } from './metrics.ts';
import { serveMetrics } from './metrics-server.ts';
import { Mounts } from './mounts.ts';
import { Pace } from './pace.ts';
import { admit } from './queue.ts';
import { runJson } from './run-json.ts';
import type { RunRecord } from './run-record.ts';
import { isEnded } from './run-state.ts';
import { RunStore } from './run-store.ts';
import { Runs } from './runs.ts';
import { LOOK_AGAIN_MS, type NextRun, nextRuns } from './schedule.ts';
import { ScheduleMemory } from './schedule-memory.ts';
import { beSole } from './sole.ts';
import { Subscriptions } from './subscriptions.ts';
import { isOnShare, operationOf, operationOnShare } from './task-of.ts';
import { Vaults } from './vaults.ts';
import { VmStatuses } from './vm-statuses.ts';
import { Vms } from './vms.ts';
import type { WorkerPlace } from './worker.ts';

export interface DaemonOptions {
  readonly configFile: string;
  readonly stateDir: string;
  /** Sockets; a short path. */
  readonly runtimeDir: string;
  readonly qemuBin: string | null;
  readonly log: Log & { level: string };
  readonly clock: Clock;
  readonly reachStep: ReachStep;
}

const DISCOVER_EVERY_MS = 10_000;
const LOOK_AT_VAULTS_EVERY_MS = 60_000;
/** At the end: a webhook that is tried again takes its time. */
const HOOKS_MS = 30_000;

export class Daemon {
  readonly #options: DaemonOptions;
  readonly #cleanup = new CleanupStack();
  readonly #startedAt: string;
  #config: Config;
  #configReadAt: string;
  #configProblem: string | null = null;
  #isStopping = false;
  readonly #paces = new Map<RunId, Pace>();
  readonly #holds = new Map<RunId, Disposable>();
  readonly #subscriptions = new Subscriptions();
  readonly #vms: Vms;
  readonly #vaults: Vaults;
  readonly #store: RunStore;
  readonly #memory: ScheduleMemory;
  readonly #runs: Runs;
  readonly #exports: Exports;
  readonly #statuses: VmStatuses;
  readonly #hooks: Hooks;
  readonly #metrics: Metrics;
  #next: readonly NextRun[] = [];
  #server: RpcServer | null = null;

  private constructor(
    options: DaemonOptions,
    config: Config,
    parts: { vms: Vms; store: RunStore; memory: ScheduleMemory },
  ) {
    const { clock, stateDir, runtimeDir, log } = options;
    this.#options = options;
    this.#config = config;
    this.#startedAt = clock().toISOString();
    this.#configReadAt = this.#startedAt;
    this.#vms = parts.vms;
    this.#store = parts.store;
    this.#memory = parts.memory;
    this.#vaults = new Vaults(config, {
      site: { places: this.#places, qemuBin: options.qemuBin },
      mounts: new Mounts({ log, clock }),
    });
    this.#cleanup.add('ending readers', () => this.#vaults.close());
    this.#runs = new Runs({
      store: parts.store,
      clock,
      log,
      placeOf: (id) => this.#placeOf(id),
      taskOf: (record, signal) => this.#taskOf(record, signal),
      admit: (active, now) =>
        admit(active, { limits: this.#config.limits, settingsOf: (run) => this.#settingsOf(run), now }),
      retriesOf: (record) => this.#settingsOf(record).retries,
      shareBandwidth: (running) => this.#share(running),
      onProgress: (record) => this.#subscriptions.progressed(record.id, () => this.#runJson(record)),
      onEnd: (record) => this.#ended(record),
    });
    this.#exports = new Exports({
      stateDir,
      runtimeDir,
      site: { places: this.#places, qemuBin: options.qemuBin, logLevel: config.log.level },
    });
    this.#hooks = new Hooks({ log });
    this.#metrics = new Metrics({ status: () => this.#status(), runs: () => this.#store.all() });
    this.#statuses = new VmStatuses({
      vms: this.#vms,
      vaults: this.#vaults,
      store: this.#store,
      nextRuns: () => this.#next,
    });
  }

  /** @throws config-invalid, daemon-running, socket-unfit, state-unwritable */
  static async start(options: DaemonOptions): Promise<Daemon> {
    const { configFile, stateDir, runtimeDir, clock, log, reachStep } = options;
    const { config } = await readConfig(configFile);
    log.level = config.log.level;
    await mkdir(join(stateDir, 'daemon'), { recursive: true, mode: 0o700 });
    await mkdir(runtimeDir, { recursive: true, mode: 0o711 });
    const sole = await beSole(stateDir);
    try {
      const [vms, store, memory] = await Promise.all([
        Vms.open(config, { stateDir, log }),
        RunStore.open({
          stateDir,
          clock,
          log,
          reachStep,
          onForgotten: (id) => rm(workFolder(stateDir, id), { recursive: true, force: true }),
        }),
        ScheduleMemory.open(stateDir),
      ]);
      const daemon = new Daemon(options, config, { vms, store, memory });
      await daemon.#begin(sole);
      return daemon;
    } catch (error) {
      sole.close();
      throw error;
    }
  }

  /** Reads the configuration again. @returns what is different, in words @throws config-invalid: the old one stays in force */
  async reload(): Promise<readonly string[]> {
    const { configFile, log, clock } = this.#options;
    try {
      const { config } = await readConfig(configFile);
      const changes = describeChanges(this.#config, config);
      this.#config = config;
      this.#configReadAt = clock().toISOString();
      this.#configProblem = null;
      log.level = config.log.level;
      this.#vms.configure(config);
      await this.#vaults.configure(config);
      if (this.#server !== null) this.#server.clientsMax = config.limits.clients;
      this.#runs.reconsider();
      this.#discover().catch((error: unknown) => log.warn({ code: codeOf(error) }, messageOf(error)));
      log.info({ changes }, 'the configuration was read again');
      return changes;
    } catch (error) {
      this.#configProblem = messageOf(error);
      log.warn({ code: codeOf(error) }, `the configuration stays as it was: ${messageOf(error)}`);
      throw error;
    }
  }

  /** No run begins any more; the running ones end, or are cancelled when the time is up. Idempotent. */
  async stop(graceMs: number): Promise<void> {
    if (!this.#isStopping) {
      this.#isStopping = true;
      await this.#runs.close(graceMs);
      this.#exports.release();
    }
    await this.#cleanup.close();
  }

  async #begin(sole: Server): Promise<void> {
    this.#cleanup.add('the lock', () => void sole.close());
    for (const record of this.#store.active().filter(({ state }) => state !== 'queued')) {
      // A NAS that is away now is its worker's business.
      if (!isOnShare(record)) void this.#hold(record).catch(() => {});
    }
    await this.#runs.recover();
    await this.#exports.recover();
    const { rpc, limits } = this.#config;
    const fd = inheritedSocket(process.env);
    this.#server = await RpcServer.listen({
      methods: METHODS,
      handlers: this.#handlers(),
      listen: fd === null ? { path: rpc.socket, group: rpc.group } : { fd },
      clientsMax: limits.clients,
      log: this.#options.log,
    });
    this.#cleanup.add('closing the socket', () => this.#server?.close());
    this.#cleanup.add('ending subscriptions', () => this.#subscriptions.close());
    if (this.#config.metrics !== null) {
      const metrics = await serveMetrics(this.#metrics, this.#config.metrics);
      this.#cleanup.add('closing the metrics', () => metrics.close());
    }
    // Added last, done first: nobody is called any more once the daemon has gone.
    this.#cleanup.add('calling hooks', () => this.#hooks.idle(), HOOKS_MS);
    this.#every(DISCOVER_EVERY_MS, () => this.#discover());
    this.#every(LOOK_AT_VAULTS_EVERY_MS, () => this.#vaults.look());
    this.#every(LOOK_AGAIN_MS / 4, () => this.#schedule());
  }

  /** Now, and then again and again; never twice at a time. */
  #every(ms: number, work: () => Promise<void>): void {
    let timer: NodeJS.Timeout;
    let isOver = false;
    const once = async () => {
      try {
        await work();
      } catch (error) {
        this.#options.log.warn({ code: codeOf(error) }, messageOf(error));
      }
      if (!isOver) timer = setTimeout(() => void once(), ms);
    };
    void once();
    this.#cleanup.add('a timer', () => {
      isOver = true;
      clearTimeout(timer);
    });
  }

  async #discover(): Promise<void> {
    await this.#vms.discover();
    await this.#plan();
  }

  async #schedule(): Promise<void> {
    if (this.#isStopping) return;
    const now = await this.#plan();
    for (const { vm, what, at, slot, cause } of this.#next) {
      if (at === null || at > now) continue;
      const { vault, verify } = this.#vms.get(vm);
      const params = what === 'verify' && verify !== null ? verifyOf(verify) : {};
      await this.#runs.start({
        what,
        vm,
        vault,
        params: { vm, ...params },
        cause,
        scheduledFor: slot.toISOString(),
      });
    }
  }

  /** When which of the scheduled runs are due. @returns the moment for which that is said */
  async #plan(): Promise<Date> {
    const now = this.#options.clock();
    const vms = this.#vms.list();
    this.#next = nextRuns(vms, await this.#memory.history(vms, this.#store.all(), now), now);
    return now;
  }

  async #taskOf(record: RunRecord, signal: AbortSignal) {
    const vms = this.#vms.list();
    const { operation, params } = isOnShare(record)
      ? operationOnShare(record, vms, this.#config.discover)
      : operationOf(
          record,
          vms.find(({ name }) => name === record.vm) ?? null,
          await this.#hold(record, signal),
        );
    return {
      run: record.id,
      operation,
      params: { ...params },
      places: this.#places,
      qemuBin: this.#options.qemuBin,
      logLevel: this.#config.log.level,
    };
  }

  /** Its vault stays mounted until it has ended. @returns the folder */
  async #hold({ id, vault }: RunRecord, signal?: AbortSignal): Promise<string> {
    const used = await this.#vaults.use(vault, signal);
    this.#holds.get(id)?.[Symbol.dispose]();
    // It may have ended while the share was being mounted.
    if (isEnded(this.#store.get(id)?.state ?? 'failed')) used[Symbol.dispose]();
    else this.#holds.set(id, used);
    return used.path;
  }

  get #places() {
    const { stateDir, runtimeDir } = this.#options;
    const { path, limitBytes } = this.#config.scratch;
    return {
      stateDir,
      runtimeDir,
      scratchDir: path,
      ...(limitBytes !== null && { scratchLimitBytes: limitBytes }),
    };
  }

  #placeOf(id: RunId): WorkerPlace {
    const { stateDir, runtimeDir } = this.#options;
    return { folder: workFolder(stateDir, id), socket: join(runtimeDir, `w-${id}.sock`) };
  }

  #settingsOf({ vm }: RunRecord) {
    return this.#vms.list().find(({ name }) => name === vm) ?? this.#config.defaults;
  }

  #share(running: readonly RunRecord[]) {
    // Only backups can be slowed down.
    const backups = running.filter(({ what }) => what === 'backup');
    const runs = backups.map(({ id, params, bandwidth }) => {
      const own = typeof params['bandwidth'] === 'number' ? params['bandwidth'] : null;
      return { id, ceiling: bandwidth === undefined ? own : bandwidth };
    });
    return shareBandwidth(this.#config.limits.bandwidth, runs);
  }

  #ended(record: RunRecord): void {
    const { id, vm, vault, state, result } = record;
    const point =
      state === 'succeeded' ? (result as { point?: { id: string; createdAt: string } }).point : null;
    if (record.what === 'backup' && vm !== null && vault !== null && point && !isOnShare(record)) {
      this.#vaults.pointMade(vault, vm, { id: point.id, createdAt: point.createdAt });
    }
    const run = this.#runJson(record);
    this.#subscriptions.ended(run);
    this.#metrics.runEnded(record);
    this.#hooks.fire(this.#config.hooks, run);
    this.#holds.get(id)?.[Symbol.dispose]();
    for (const known of [this.#holds, this.#paces]) known.delete(id);
  }

  #runJson(record: RunRecord, withResult = true): Run {
    const { id, progress, state } = record;
    const pace = this.#paces.get(id) ?? new Pace();
    if (!isEnded(state)) this.#paces.set(id, pace);
    return runJson(record, {
      progress: progress === null || isEnded(state) ? null : pace.observe(progress, performance.now()),
      waitingFor: this.#runs.whyWaiting(id),
      withResult,
    });
  }

  #handlers() {
    return handlers({
      vms: this.#vms,
      vaults: this.#vaults,
      store: this.#store,
      runs: this.#runs,
      exports: this.#exports,
      subscriptions: this.#subscriptions,
      statuses: this.#statuses,
      runJson: (record, withResult) => this.#runJson(record, withResult),
      logOf: (id) => join(this.#placeOf(id as RunId).folder, 'log'),
      status: () => this.#status(),
      reload: () => this.reload(),
      config: () => ({ file: this.#config.file, config: JSON.parse(JSON.stringify(this.#config)) }),
    });
  }

  async #status(): Promise<DaemonStatus> {
    const { limits, file } = this.#config;
    const active = this.#store.active();
    const queued = active.filter(({ state }) => state === 'queued').length;
    return {
      version: VERSION,
      pid: process.pid,
      startedAt: this.#startedAt,
      state: this.#isStopping ? 'stopping' : 'running',
      config: { file, readAt: this.#configReadAt, problem: this.#configProblem },
      runs: { queued, running: active.length - queued, limit: limits.runs, bandwidth: limits.bandwidth },
      vaults: this.#vaults.status(),
      vms: await this.#statuses.all(),
    };
  }
}

/** What of it is the operation's parameters. */
function verifyOf({ oldest, level, boot }: VerifyConfig): Record<string, unknown> {
  return { oldest, level, ...(boot !== null && { boot }) };
}

/** The task, the outcome and the log of a run. */
function workFolder(stateDir: string, id: RunId): string {
  return join(stateDir, 'daemon', 'work', id);
}
