/** Which ended runs are remembered. Pure. */
import type { RunRecord } from './run-record.ts';
import { isEnded } from './run-state.ts';

/**
 * Those to forget: beyond the newest so many of each VM, and of all. The newest of each kind that a schedule made of a VM
 * is kept in any case, since the schedule goes on from it; and so is the newest that ended well. What ended in the future,
 * by a clock that was put back since, counts as older than all: else what is made now would be forgotten at once.
 */
export function surplusRuns(
  runs: readonly RunRecord[],
  { perVm, overall }: { readonly perVm: number; readonly overall: number },
  now: Date,
): RunRecord[] {
  const age = ({ endedAt }: RunRecord) => (endedAt === null || endedAt > now.toISOString() ? '' : endedAt);
  const ended = runs.filter(({ state }) => isEnded(state)).toSorted((a, b) => age(b).localeCompare(age(a)));
  const seen = new Set<string>();
  const countOf = new Map<string | null, number>();
  return ended.filter((run, nth) => {
    const count = (countOf.get(run.vm) ?? 0) + 1;
    countOf.set(run.vm, count);
    const kind = JSON.stringify([run.vm, run.what]);
    const marks = [
      ...(run.scheduledFor === null ? [] : [`schedule ${kind}`]),
      ...(run.state === 'succeeded' ? [`success ${kind}`] : []),
    ];
    const isNewest = marks.some((mark) => !seen.has(mark));
    for (const mark of marks) seen.add(mark);
    return !isNewest && (count > perVm || nth >= overall);
  });
}
