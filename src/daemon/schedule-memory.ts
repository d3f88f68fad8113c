/**
 * What the schedule has to know beside the records of runs, on local disk.
 *
 * Since when each VM's work is scheduled: what a new VM missed while the daemon was down, it missed; what was never
 * scheduled, it did not. And which records were made while the clock stood in the future: when it was put back, their
 * slots are still to come, and must not count as done when they do.
 */
import { mkdir, readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { z } from 'zod';
import { messageOf, QmpvaultError } from '../base/errors.ts';
import type { VmConfig } from '../config/config.ts';
import { writeFileDurably } from '../vault/durable.ts';
import type { RunRecord } from './run-record.ts';
import { cronFor, type History, keyOf, SCHEDULED } from './schedule.ts';

const schema = z.object({
  format: z.literal(1),
  since: z.record(z.string(), z.iso.datetime()),
  fromTheFuture: z.array(z.string()),
});

type Known = z.output<typeof schema>;
type Run = Pick<RunRecord, 'id' | 'createdAt' | keyof History['runs'][number]>;

export const NOTHING_KNOWN: Known = { format: 1, since: {}, fromTheFuture: [] };
/** A clock that is put back by less repeats no slot; by more, the schedule goes on from the present. */
const PUT_BACK_MS = 3_600_000;

export class ScheduleMemory {
  readonly #file: string;
  #known = NOTHING_KNOWN;

  private constructor(stateDir: string) {
    this.#file = join(stateDir, 'daemon', 'schedule.json');
  }

  /** One that is missing or damaged remembers nothing: then all is scheduled since now. */
  static async open(stateDir: string): Promise<ScheduleMemory> {
    const memory = new ScheduleMemory(stateDir);
    const text = await readFile(memory.#file, 'utf8').catch(() => '');
    try {
      memory.#known = schema.parse(JSON.parse(text));
    } catch {
      // As said above.
    }
    return memory;
  }

  /** What nextRuns goes by. To be asked for before each look; what was learned is durable. @throws state-unwritable */
  async history(vms: readonly VmConfig[], runs: readonly Run[], now: Date): Promise<History> {
    const known = learned(this.#known, vms, runs, now);
    if (!isDeepStrictEqual(known, this.#known)) await this.#write(known);
    this.#known = known;
    return historyOf(known, runs);
  }

  async #write(known: Known): Promise<void> {
    try {
      await mkdir(dirname(this.#file), { recursive: true, mode: 0o700 });
      await writeFileDurably(this.#file, `${JSON.stringify(known, null, 2)}\n`);
    } catch (cause) {
      throw new QmpvaultError(
        'state-unwritable',
        `the daemon's own state in ${this.#file} cannot be written: ${messageOf(cause)}`,
        { details: { path: this.#file }, cause },
      );
    }
  }
}

/** Pure. */
export function learned(before: Known, vms: readonly VmConfig[], runs: readonly Run[], now: Date): Known {
  const keys = vms.flatMap((vm) =>
    SCHEDULED.flatMap((what) => (cronFor(vm, what) === null ? [] : [keyOf(vm.name, what)])),
  );
  const present = now.toISOString();
  const sinceOf = (key: string) => {
    const since = before.since[key];
    return since === undefined || since > present ? present : since;
  };
  const limit = new Date(now.getTime() + PUT_BACK_MS).toISOString();
  const known = new Set(before.fromTheFuture);
  return {
    format: 1,
    since: Object.fromEntries(keys.map((key) => [key, sinceOf(key)])),
    fromTheFuture: runs
      .filter(
        ({ id, createdAt, scheduledFor }) => scheduledFor !== null && (known.has(id) || createdAt > limit),
      )
      .map(({ id }) => id),
  };
}

/** Pure. */
export function historyOf({ since, fromTheFuture }: Known, runs: readonly Run[]): History {
  const forgotten = new Set<string>(fromTheFuture);
  return {
    runs: runs.filter(({ id }) => !forgotten.has(id)),
    since: (vm, what) => new Date(since[keyOf(vm, what)] ?? 0),
  };
}
