/** The times of a cron expression around a moment. croner takes half a millisecond for each (m), and VMs share schedules. */
import type { Cron } from 'croner';
import { cronOf } from '../config/values.ts';

export interface Slots {
  /** The newest that is not after the moment. */
  readonly last: Date | null;
  /** The first that is after it. */
  readonly next: Date | null;
}

export class CronSlots {
  readonly #crons = new Map<string, { readonly cron: Cron; found: Slots | null }>();

  /** @param cron a valid one */
  around(cron: string, timeZone: string, moment: Date): Slots {
    const key = `${timeZone} ${cron}`;
    const known = this.#crons.get(key) ?? { cron: cronOf(cron, timeZone), found: null };
    this.#crons.set(key, known);
    if (known.found === null || !isBetween(known.found, moment)) {
      known.found = {
        // Strictly before, to the millisecond.
        last: known.cron.previousRuns(1, new Date(moment.getTime() + 1))[0] ?? null,
        next: known.cron.nextRun(moment),
      };
    }
    return known.found;
  }
}

function isBetween({ last, next }: Slots, moment: Date): boolean {
  return last !== null && next !== null && last <= moment && moment < next;
}
