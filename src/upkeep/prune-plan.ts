/** In which order expired points go, and what that costs. Pure. */
import type { PointId } from '../base/ids.ts';
import { ancestors, descendants, inOrder } from '../vault/chain.ts';
import type { Manifest } from '../vault/manifest.ts';
import { asChanged, type DeletePlan, type Descendants, type LayerBytes, planDelete } from './delete-plan.ts';

export interface PruneStep {
  readonly point: PointId;
  readonly descendants: Extract<Descendants, 'keep' | 'delete'>;
}

export interface PrunePlan {
  readonly steps: readonly PruneStep[];
  readonly removes: readonly PointId[];
  readonly freedBytes: number;
  /** What merging writes, at most. */
  readonly mergeBytes: number;
  /** What the policy wants and cannot have. */
  readonly warnings: readonly string[];
}

export interface PruneWish {
  readonly expired: ReadonlySet<PointId>;
  /** No chain is to have more points than this: the oldest ones are merged into the full. */
  readonly maxChain?: number | undefined;
  /** Something outside of the vault stands on them: not to be touched. */
  readonly held: ReadonlySet<PointId>;
}

/**
 * What only expired points need goes whole, without merging. Of the others the oldest goes first: merged one after the
 * other into what comes next, and that in the end into the full, each costs no more than the smaller of two layers.
 */
export function planPrune(points: readonly Manifest[], wish: PruneWish, bytesOf: LayerBytes): PrunePlan {
  const state = new State(points, bytesOf);
  const { expired, maxChain = Number.POSITIVE_INFINITY, held } = wish;
  const isExpired = ({ id }: Manifest) => expired.has(id) && !held.has(id);
  for (const { id } of points) {
    if (expired.has(id) && held.has(id))
      state.warnings.push(`${id} is kept: an instant restore stands on it`);
  }
  for (const point of inOrder(points).filter(isExpired)) {
    if (!state.has(point.id)) continue;
    if (descendants(state.points, point.id).every(isExpired)) state.remove(point.id, 'delete');
  }
  for (const { id } of inOrder(points).filter(isExpired)) if (state.has(id)) state.remove(id, 'keep');
  for (let full = tooLong(state.points, maxChain); full !== null; full = tooLong(state.points, maxChain)) {
    if (full.protected || held.has(full.id)) {
      const why = full.protected ? 'its full is protected' : 'an instant restore stands on its full';
      state.warnings.push(`the chain of ${full.id} stays longer than ${maxChain} points: ${why}`);
      break;
    }
    state.remove(full.id, 'keep');
  }
  return state;
}

/** The full of a chain that is too long. */
function tooLong(points: readonly Manifest[], maxChain: number): Manifest | null {
  for (const point of points) {
    const line = [point, ...ancestors(points, point.id)];
    if (line.length > maxChain) return line.at(-1) ?? null;
  }
  return null;
}

/** The points as they would be after the steps so far. */
class State implements PrunePlan {
  readonly steps: PruneStep[] = [];
  readonly removes: PointId[] = [];
  readonly warnings: string[] = [];
  freedBytes = 0;
  mergeBytes = 0;
  points: Manifest[];
  readonly #bytes = new Map<string, number>();
  readonly #bytesOf: LayerBytes;

  constructor(points: readonly Manifest[], bytesOf: LayerBytes) {
    this.points = [...points];
    this.#bytesOf = (point, file) => this.#bytes.get(`${point}/${file}`) ?? bytesOf(point, file);
  }

  has(id: PointId): boolean {
    return this.points.some((point) => point.id === id);
  }

  remove(id: PointId, wish: PruneStep['descendants']): void {
    const point = this.points.find((point) => point.id === id);
    if (point === undefined) return;
    const plan = planDelete(this.points, point, wish, this.#bytesOf);
    this.steps.push({ point: id, descendants: wish });
    this.removes.push(...plan.removes);
    this.freedBytes += plan.freedBytes;
    this.mergeBytes += plan.mergeBytes;
    this.#grow(plan);
    this.points = this.points
      .filter((point) => !plan.removes.includes(point.id))
      .map((point) => asChanged(point, plan));
  }

  /** As if no cluster were in both. */
  #grow({ moves }: DeletePlan): void {
    for (const { point, file, from } of moves) {
      const bytes = this.#bytesOf(point, file) + this.#bytesOf(from.point, from.file);
      this.#bytes.set(`${point}/${file}`, bytes);
    }
  }
}
