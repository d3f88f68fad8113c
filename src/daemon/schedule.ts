/**
 * When each VM's scheduled work is due. Pure: the configuration, what was done, and the time that it is. The system's clock
 * may jump: whoever waits for the next run looks again after a minute at the latest (see LOOK_AGAIN_MS).
 *
 * A *slot* is a time of the cron expression. Each VM begins later than it by its own jitter, always the same. A slot is
 * done when a run stands for it, however that ended: repeating is the business of retries. Of several slots that were
 * missed the newest alone is caught up, and none while the run of an older one is not over: so slots never pile up.
 */
import { createHash } from 'node:crypto';
import type { VmName } from '../base/ids.ts';
import type { VmConfig } from '../config/config.ts';
import { blackoutAt } from './blackout.ts';
import { CronSlots } from './cron-slots.ts';
import type { Cause, RunRecord } from './run-record.ts';
import { isEnded } from './run-state.ts';

export const SCHEDULED = ['backup', 'prune', 'verify'] as const;
export type Scheduled = (typeof SCHEDULED)[number];

export const LOOK_AGAIN_MS = 60_000;
/** Later than this it is told as caught up. */
const LATE_MS = 10 * 60_000;

export interface NextRun {
  readonly vm: VmName;
  readonly what: Scheduled;
  /** Due when this is not after the present. null: blackout windows leave no time. */
  readonly at: Date | null;
  readonly slot: Date;
  readonly cause: Exclude<Cause, 'requested'>;
}

/** What ScheduleMemory knows of the past. */
export interface History {
  readonly runs: readonly Pick<RunRecord, 'vm' | 'what' | 'state' | 'scheduledFor'>[];
  /** Since when this is scheduled at all: nothing before that was missed. */
  readonly since: (vm: VmName, what: Scheduled) => Date;
}

/** The next run of each kind that has a schedule, those of one VM together. */
export function nextRuns(
  vms: readonly VmConfig[],
  { runs, since }: History,
  now: Date,
  slots = new CronSlots(),
): NextRun[] {
  const done = doneSlots(runs);
  return vms.flatMap((vm) =>
    SCHEDULED.flatMap((what) => {
      const cron = cronFor(vm, what);
      if (cron === null) return [];
      const { slot: last, isOver } = done.get(keyOf(vm.name, what)) ?? NOTHING_DONE;
      const from = new Date(Math.max(last, since(vm.name, what).getTime()));
      const next = nextOf(vm, what, cron, { from, isOver, now, slots });
      return next === null ? [] : [next];
    }),
  );
}

/** The first that is due, or will be. */
export function nextOfVm(next: readonly NextRun[], vm: VmName, what: Scheduled): NextRun | undefined {
  return next.find((run) => run.vm === vm && run.what === what);
}

export function cronFor(vm: VmConfig, what: Scheduled): string | null {
  if (what === 'backup') return vm.schedule;
  return (what === 'prune' ? vm.prune : vm.verify)?.schedule ?? null;
}

function nextOf(
  vm: VmConfig,
  what: Scheduled,
  cron: string,
  site: { from: Date; isOver: boolean; now: Date; slots: CronSlots },
): NextRun | null {
  const { from, isOver, now, slots } = site;
  const jitterMs = jitterOf(vm.name, what, vm.jitterMs);
  const present = new Date(now.getTime() - jitterMs);
  const { last } = slots.around(cron, vm.timeZone, present);
  const isDue = isOver && last !== null && last > from;
  const slot = isDue ? last : slots.around(cron, vm.timeZone, from > present ? from : present).next;
  if (slot === null) return null;
  const planned = new Date(slot.getTime() + jitterMs);
  const blackout = blackoutAt(vm.blackout, vm.timeZone, planned);
  const isLate = now.getTime() - (blackout?.end ?? planned).getTime() > LATE_MS;
  return {
    vm: vm.name,
    what,
    at: blackout === null ? planned : blackout.end,
    slot,
    cause: isLate ? 'caught-up' : 'scheduled',
  };
}

interface Done {
  /** Milliseconds. */
  readonly slot: number;
  readonly isOver: boolean;
}

const NOTHING_DONE: Done = { slot: 0, isOver: true };

/** The newest slot that was done of each kind. */
function doneSlots(runs: History['runs']): ReadonlyMap<string, Done> {
  const done = new Map<string, Done>();
  for (const { vm, what, scheduledFor, state } of runs) {
    if (vm === null || scheduledFor === null) continue;
    const key = keyOf(vm, what);
    const before = done.get(key) ?? NOTHING_DONE;
    const slot = Date.parse(scheduledFor);
    done.set(key, {
      slot: Math.max(slot, before.slot),
      isOver: before.isOver && isEnded(state),
    });
  }
  return done;
}

/** The same for a VM each time, so that the distance of its points stays that of the schedule. */
export function jitterOf(vm: VmName, what: Scheduled, jitterMs: number): number {
  const fraction = createHash('sha256').update(keyOf(vm, what)).digest().readUInt32BE() / 2 ** 32;
  return Math.floor(fraction * jitterMs);
}

export function keyOf(vm: VmName, what: string): string {
  return `${what} ${vm}`;
}
