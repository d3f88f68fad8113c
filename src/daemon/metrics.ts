/**
 * What Prometheus is told. All that can be read from the daemon's status and the records of runs is read when it is asked
 * for, so nothing has to be kept up to date, and a restart loses nothing of it; only what adds up is counted here.
 */
import { Counter, Gauge, type GaugeConfiguration, Histogram, Registry } from 'prom-client';
import { z } from 'zod';
import { QmpvaultError } from '../base/errors.ts';
import type { DaemonStatus, VaultStatus } from '../rpc/status.ts';
import type { RunRecord } from './run-record.ts';
import { isEnded } from './run-state.ts';

export interface MetricsSource {
  readonly status: () => Promise<DaemonStatus>;
  readonly runs: () => readonly RunRecord[];
}

// What is read of results; a record that an older qmpvault wrote may lack the rest.
const backupResult = z.object({
  point: z.object({
    disks: z.array(z.object({ copiedBytes: z.number(), storedBytes: z.number() })),
    timings: z.object({ freezeMs: z.number().nullable(), pauseMs: z.number().nullable() }),
  }),
});
const pruneResult = z.object({ freedBytes: z.number(), dryRun: z.boolean() });
const verifyResult = z.object({ damaged: z.array(z.unknown()) });

const VAULT_STATES: readonly VaultStatus['state'][] = ['ready', 'away', 'unmounted', 'unknown'];
const MINUTE_S = 60;
const RUN_BUCKETS_S = [1, 5, 15, MINUTE_S, 5 * MINUTE_S, 15 * MINUTE_S, 3600, 4 * 3600, 12 * 3600];
const PAUSE_BUCKETS_S = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10];

export class Metrics {
  readonly #registry = new Registry();
  readonly #runsEnded = this.#counter('qmpvault_runs_ended_total', 'Runs by how they ended', 'what', 'state');
  readonly #copied = this.#counter('qmpvault_copied_bytes_total', 'Bytes read from VMs by backups', 'vm');
  readonly #stored = this.#counter('qmpvault_stored_bytes_total', 'Bytes stored in vaults by backups', 'vm');
  readonly #freed = this.#counter('qmpvault_freed_bytes_total', 'Bytes deleted from vaults by prunes', 'vm');
  readonly #duration = new Histogram({
    name: 'qmpvault_run_duration_seconds',
    help: 'From the first beginning of a run to its end',
    labelNames: ['what'],
    buckets: RUN_BUCKETS_S,
    registers: [this.#registry],
  });
  readonly #pause = new Histogram({
    name: 'qmpvault_guest_pause_seconds',
    help: 'How long backups paused VMs',
    buckets: PAUSE_BUCKETS_S,
    registers: [this.#registry],
  });

  readonly #source: MetricsSource;
  /** One look for all metrics of a scrape; that of another scrape in the middle of it is as good. */
  #seen: { readonly status: DaemonStatus; readonly runs: readonly RunRecord[] } | undefined;

  constructor(source: MetricsSource) {
    this.#source = source;
    const status = () => this.#look().status;
    this.#ofDaemon(status);
    this.#ofVaults(status);
    this.#ofVms(status);
    this.#ofLastRuns(() => this.#look().runs);
  }

  /** Each run once, when it has ended. */
  runEnded({ what, state, vm, startedAt, endedAt, result }: RunRecord): void {
    this.#runsEnded.inc({ what, state });
    if (startedAt !== null && endedAt !== null) {
      // The clock may have been put back meanwhile.
      const seconds = Math.max(0, Date.parse(endedAt) - Date.parse(startedAt)) / 1000;
      this.#duration.observe({ what }, seconds);
    }
    if (state !== 'succeeded' || vm === null) return;
    if (what === 'backup') this.#countBackup(vm, result);
    if (what === 'prune') {
      const prune = pruneResult.safeParse(result).data;
      if (prune !== undefined && !prune.dryRun) this.#freed.inc({ vm }, prune.freedBytes);
    }
  }

  /** In the text format of Prometheus. */
  async text(): Promise<string> {
    this.#seen = { status: await this.#source.status(), runs: this.#source.runs() };
    return this.#registry.metrics();
  }

  get contentType(): string {
    return this.#registry.contentType;
  }

  #look() {
    if (this.#seen !== undefined) return this.#seen;
    throw new QmpvaultError('internal', 'metrics are told before anything was looked at');
  }

  #countBackup(vm: string, result: unknown): void {
    const point = backupResult.safeParse(result).data?.point;
    if (point === undefined) return;
    for (const { copiedBytes, storedBytes } of point.disks) {
      this.#copied.inc({ vm }, copiedBytes);
      this.#stored.inc({ vm }, storedBytes);
    }
    if (point.timings.pauseMs !== null) this.#pause.observe(point.timings.pauseMs / 1000);
  }

  #ofDaemon(status: () => DaemonStatus): void {
    this.#gauge('qmpvault_info', 'Always 1; the version is a label', ['version'], (gauge) =>
      gauge.set({ version: status().version }, 1),
    );
    this.#gauge('qmpvault_config_ok', '0: the configuration on disk was refused', [], (gauge) =>
      gauge.set(status().config.problem === null ? 1 : 0),
    );
    this.#gauge('qmpvault_runs', 'Runs that have not ended', ['state'], (gauge) => {
      const { queued, running } = status().runs;
      gauge.set({ state: 'queued' }, queued);
      gauge.set({ state: 'running' }, running);
    });
    this.#gauge('process_resident_memory_bytes', 'Resident memory of the daemon', [], (gauge) =>
      gauge.set(process.memoryUsage.rss()),
    );
  }

  #ofVaults(status: () => DaemonStatus): void {
    this.#gauge('qmpvault_vault_state', '1 for the state that a vault is in', ['vault', 'state'], (gauge) => {
      for (const vault of status().vaults) {
        for (const state of VAULT_STATES) {
          gauge.set({ vault: vault.name, state }, vault.state === state ? 1 : 0);
        }
      }
    });
    const bytes = (name: string, help: string, of: (vault: VaultStatus) => number | null) =>
      this.#gauge(name, help, ['vault'], (gauge) => {
        for (const vault of status().vaults) setIfKnown(gauge, { vault: vault.name }, of(vault));
      });
    bytes('qmpvault_vault_total_bytes', "Size of the vault's filesystem", ({ totalBytes }) => totalBytes);
    bytes('qmpvault_vault_free_bytes', 'What is free of it', ({ freeBytes }) => freeBytes);
  }

  #ofVms(status: () => DaemonStatus): void {
    const ofEach = (name: string, help: string, of: (vm: DaemonStatus['vms'][number]) => number | null) =>
      this.#gauge(name, help, ['vm'], (gauge) => {
        for (const vm of status().vms) setIfKnown(gauge, { vm: vm.name }, of(vm));
      });
    ofEach(
      'qmpvault_newest_point_timestamp_seconds',
      'The moment that the newest restore point shows; none: there is none, or the vault was not read yet',
      ({ lastPoint }) => secondsOf(lastPoint?.createdAt),
    );
    ofEach('qmpvault_next_run_timestamp_seconds', 'When the next scheduled run is due', ({ nextRun }) =>
      secondsOf(nextRun?.at),
    );
    ofEach('qmpvault_bitmaps_healthy', '0: changes were not tracked, disks are read again', ({ bitmaps }) =>
      bitmaps === 'unknown' ? null : Number(bitmaps === 'healthy'),
    );
    ofEach('qmpvault_vm_problem', '1: something keeps the VM from being backed up', ({ problem }) =>
      Number(problem !== null),
    );
  }

  #ofLastRuns(runs: () => readonly RunRecord[]): void {
    const ofEach = (name: string, help: string, of: (run: RunRecord) => number | null) =>
      this.#gauge(name, help, ['vm', 'what'], (gauge) => {
        for (const run of lastRuns(runs())) setIfKnown(gauge, { vm: run.vm ?? '', what: run.what }, of(run));
      });
    ofEach('qmpvault_last_run_success', '1: the last run of its kind succeeded; 0: it failed', ({ state }) =>
      Number(state === 'succeeded'),
    );
    ofEach(
      'qmpvault_last_run_warnings',
      'Warnings of the last run of its kind',
      ({ warnings }) => warnings.length,
    );
    this.#gauge(
      'qmpvault_last_success_timestamp_seconds',
      'When a run of its kind succeeded last',
      ['vm', 'what'],
      (gauge) => {
        const succeeded = runs().filter(({ state }) => state === 'succeeded');
        for (const { vm, what, endedAt } of lastRuns(succeeded)) {
          setIfKnown(gauge, { vm: vm ?? '', what }, secondsOf(endedAt));
        }
      },
    );
    const ofSucceeded = (
      what: RunRecord['what'],
      name: string,
      help: string,
      of: (result: unknown) => number | null | undefined,
    ) =>
      this.#gauge(name, help, ['vm'], (gauge) => {
        const succeeded = runs().filter((run) => run.what === what && run.state === 'succeeded');
        for (const { vm, result } of lastRuns(succeeded)) setIfKnown(gauge, { vm: vm ?? '' }, of(result));
      });
    const timingsOf = (result: unknown) => backupResult.safeParse(result).data?.point.timings;
    ofSucceeded(
      'backup',
      'qmpvault_last_guest_pause_seconds',
      'How long the last backup paused the VM',
      (it) => inSeconds(timingsOf(it)?.pauseMs),
    );
    ofSucceeded(
      'backup',
      'qmpvault_last_guest_freeze_seconds',
      "How long it froze the VM's filesystems",
      (it) => inSeconds(timingsOf(it)?.freezeMs),
    );
    ofSucceeded(
      'verify',
      'qmpvault_damage_found',
      'Damages that the last verification found',
      (it) => verifyResult.safeParse(it).data?.damaged.length,
    );
  }

  #gauge<L extends string>(
    name: string,
    help: string,
    labelNames: L[],
    collect: (gauge: Gauge<L>) => void,
  ): void {
    const configuration: GaugeConfiguration<L> = {
      name,
      help,
      labelNames,
      registers: [this.#registry],
      collect() {
        // VMs and vaults come and go.
        this.reset();
        collect(this);
      },
    };
    new Gauge(configuration);
  }

  #counter<L extends string>(name: string, help: string, ...labelNames: L[]): Counter<L> {
    return new Counter({ name, help, labelNames, registers: [this.#registry] });
  }
}

/** The last that ended of each VM and kind; those that were cancelled tell nothing. */
function lastRuns(runs: readonly RunRecord[]): Iterable<RunRecord> {
  const last = new Map<string, RunRecord>();
  for (const run of runs) {
    if (!isEnded(run.state) || run.state === 'cancelled') continue;
    const key = JSON.stringify([run.vm, run.what]);
    const before = last.get(key);
    if (before === undefined || (before.endedAt ?? '') <= (run.endedAt ?? '')) last.set(key, run);
  }
  return last.values();
}

function setIfKnown<L extends string>(
  gauge: Gauge<L>,
  labels: Record<L, string>,
  value: number | null | undefined,
): void {
  if (value !== null && value !== undefined) gauge.set(labels, value);
}

function secondsOf(at: string | null | undefined): number | null {
  return at === null || at === undefined ? null : Date.parse(at) / 1000;
}

function inSeconds(ms: number | null | undefined): number | null {
  return ms === null || ms === undefined ? null : ms / 1000;
}
