/** How each VM is, from what the daemon knows without asking anybody. */
import type { VmStatus } from '../rpc/status.ts';
import type { RunRecord } from './run-record.ts';
import { isEnded } from './run-state.ts';
import type { RunStore } from './run-store.ts';
import type { NextRun } from './schedule.ts';
import type { Vaults } from './vaults.ts';
import type { KnownVm, Vms } from './vms.ts';

export interface VmStatusesSite {
  readonly vms: Vms;
  readonly vaults: Vaults;
  readonly store: RunStore;
  readonly nextRuns: () => readonly NextRun[];
}

/** The kinds of points whose making found the changes on its own account. */
const LOST = ['resynced', 'bitmap-lost'];

export class VmStatuses {
  readonly #site: VmStatusesSite;

  constructor(site: VmStatusesSite) {
    this.#site = site;
  }

  async all(): Promise<VmStatus[]> {
    const { vms, nextRuns } = this.#site;
    const [running, next] = [await vms.running(), nextRuns()];
    return vms.list().map((vm) => this.#statusOf(vm, running, next));
  }

  async of(vm: KnownVm): Promise<VmStatus> {
    const { vms, nextRuns } = this.#site;
    return this.#statusOf(vm, await vms.running(), nextRuns());
  }

  #statusOf(vm: KnownVm, running: ReadonlySet<string>, next: readonly NextRun[]): VmStatus {
    const { vaults, store } = this.#site;
    const runs = store.all().filter((run) => run.vm === vm.name);
    const backups = runs.filter(
      ({ what, state }) => what === 'backup' && isEnded(state) && state !== 'cancelled',
    );
    const soonest = next
      .filter((run) => run.vm === vm.name && run.at !== null)
      .toSorted((a, b) => Number(a.at) - Number(b.at))[0];
    return {
      name: vm.name,
      source: vm.source,
      uuid: vm.uuid,
      state: running.has(vm.name) ? 'running' : 'stopped',
      qmp: vm.qmp,
      agent: vm.agent,
      vault: vm.vault || null,
      schedule: vm.schedule,
      lastPoint: vaults.lastPoint(vm.vault, vm.name),
      nextRun: soonest?.at ? { what: soonest.what, at: soonest.at.toISOString() } : null,
      runId: runs.find(({ state }) => state === 'running' || state === 'cancelling')?.id ?? null,
      bitmaps: bitmapsAfter(backups),
      problem: problemAfter(backups),
    };
  }
}

function bitmapsAfter(backups: readonly RunRecord[]): VmStatus['bitmaps'] {
  const result = backups.findLast(({ state }) => state === 'succeeded')?.result as
    | { point?: { how?: string } }
    | undefined;
  const how = result?.point?.how;
  if (how === undefined) return 'unknown';
  return LOST.includes(how) ? 'lost' : 'healthy';
}

function problemAfter(backups: readonly RunRecord[]): string | null {
  const last = backups.at(-1);
  return last?.state === 'failed' ? (last.error?.message ?? null) : null;
}
