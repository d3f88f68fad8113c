/** The shares of runs in the bandwidth of the host. Pure. */
import type { RunId } from '../base/ids.ts';

export interface Sharer {
  readonly id: RunId;
  /** What it was asked not to exceed, in bytes per second; null: nothing. */
  readonly ceiling: number | null;
}

/** As equal as their ceilings allow: what one leaves, the others share. null: no limit. */
export function shareBandwidth(limit: number | null, runs: readonly Sharer[]): Map<RunId, number | null> {
  const shares = new Map<RunId, number | null>();
  let left = limit;
  let sharers = runs.length;
  for (const { id, ceiling } of runs.toSorted((a, b) => (a.ceiling ?? Infinity) - (b.ceiling ?? Infinity))) {
    const equal = left === null ? null : Math.max(1, Math.floor(left / sharers));
    const share = equal === null || ceiling === null ? (equal ?? ceiling) : Math.min(equal, ceiling);
    shares.set(id, share);
    sharers -= 1;
    if (left !== null) left -= share ?? 0;
  }
  return shares;
}
