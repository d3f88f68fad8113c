/**
 * The points of a VM as trees: a full, and all that descends from it. Pure; the functions take the VM's readable
 * points and never assume that a parent is among them.
 */
import { QmpvaultError } from '../base/errors.ts';
import type { PointId } from '../base/ids.ts';
import type { Manifest } from './manifest.ts';

/** What of a manifest makes a chain. */
export type ChainPoint = Pick<Manifest, 'id' | 'parent' | 'createdAt' | 'sealed'>;

/** Oldest first. A child never comes before its parent, whatever the clocks of the hosts that made them said. */
export function inOrder<P extends ChainPoint>(points: readonly P[]): P[] {
  const byId = index(points);
  const keys = new Map<string, { latest: number; depth: number }>();
  for (const point of points) {
    if (keys.has(point.id)) continue;
    // From the last one above it that has its key down to itself: each point once, however long the chain.
    const line = lineOf(byId, point, (id) => keys.has(id)).points;
    let above = keys.get(line.at(-1)?.parent ?? '');
    for (const { id, createdAt } of line.toReversed()) {
      const latest = Math.max(Date.parse(createdAt), above?.latest ?? Number.NEGATIVE_INFINITY);
      above = { latest, depth: 1 + (above?.depth ?? 0) };
      keys.set(id, above);
    }
  }
  return points.toSorted((a, b) => {
    const [ka, kb] = [keys.get(a.id), keys.get(b.id)];
    return (
      (ka?.latest ?? 0) - (kb?.latest ?? 0) || (ka?.depth ?? 0) - (kb?.depth ?? 0) || (a.id < b.id ? -1 : 1)
    );
  });
}

export function newest<P extends ChainPoint>(points: readonly P[]): P | null {
  return inOrder(points).at(-1) ?? null;
}

/** Nearest first, the full last. @throws point-unknown; manifest-invalid when the line does not end in a full */
export function ancestors<P extends ChainPoint>(points: readonly P[], id: PointId): P[] {
  const { points: line, broken } = lineOf(index(points), pointById(points, id));
  if (broken === null) return line.slice(1);
  throw new QmpvaultError(
    'manifest-invalid',
    `the chain of point ${id} is broken: ${broken} is missing or damaged. Restore an older point, and make a full backup.`,
    { details: { point: id, broken } },
  );
}

/** Points from the full to this one, both counted. @throws as `ancestors` */
export function chainLength(points: readonly ChainPoint[], id: PointId): number {
  return ancestors(points, id).length + 1;
}

export function children<P extends ChainPoint>(points: readonly P[], id: PointId): P[] {
  return points.filter((point) => point.parent === id);
}

/** All that needs this point, parents before children. */
export function descendants<P extends ChainPoint>(points: readonly P[], id: PointId): P[] {
  const found: P[] = [];
  const seen = new Set<string>([id]);
  const queue = children(points, id);
  for (let point = queue.shift(); point !== undefined; point = queue.shift()) {
    if (seen.has(point.id)) continue;
    seen.add(point.id);
    found.push(point);
    queue.push(...children(points, point.id));
  }
  return found;
}

/** Whether a new point must not build on this one: it or one that it needs is sealed, or gone. @throws point-unknown */
export function isSealedChain(points: readonly ChainPoint[], id: PointId): boolean {
  const { points: line, broken } = lineOf(index(points), pointById(points, id));
  return broken !== null || line.some((point) => point.sealed);
}

/** `latest`, an id, or a unique beginning of one. @throws point-unknown; usage when several ids begin so */
export function pointBySelector<P extends ChainPoint>(points: readonly P[], selector: string): P {
  if (selector === 'latest') {
    const latest = newest(points);
    if (latest !== null) return latest;
    throw new QmpvaultError('point-unknown', 'there is no restore point yet', {
      details: { point: selector },
    });
  }
  const exact = points.find((point) => point.id === selector);
  if (exact !== undefined) return exact;
  const [first, ...more] = selector === '' ? [] : points.filter((point) => point.id.startsWith(selector));
  if (first === undefined) throw unknownPoint(selector);
  if (more.length === 0) return first;
  const candidates = [first, ...more].map((point) => point.id);
  throw new QmpvaultError(
    'usage',
    `'${selector}' is the beginning of ${candidates.length} points (${candidates.slice(0, 3).join(', ')}): write more of it`,
    { details: { point: selector, candidates } },
  );
}

/** @throws point-unknown */
export function pointById<P extends ChainPoint>(points: readonly P[], id: string): P {
  const point = points.find((point) => point.id === id);
  if (point === undefined) throw unknownPoint(id);
  return point;
}

function unknownPoint(selector: string): QmpvaultError {
  return new QmpvaultError(
    'point-unknown',
    `no restore point '${selector}': 'qmpvault list' shows those there are`,
    {
      details: { point: selector },
    },
  );
}

function index<P extends ChainPoint>(points: readonly P[]): Map<string, P> {
  return new Map(points.map((point) => [point.id, point]));
}

/** From a point up to its full. `broken`: the id that is missing, or at which the line bites its own tail. */
function lineOf<P extends ChainPoint>(
  byId: Map<string, P>,
  from: P,
  isEnough = (_parent: string) => false,
): { points: P[]; broken: PointId | null } {
  const line = [from];
  const seen = new Set<string>([from.id]);
  for (let { parent } = from; parent !== null && !isEnough(parent); ) {
    const point = byId.get(parent);
    if (point === undefined || seen.has(parent)) return { points: line, broken: parent };
    seen.add(parent);
    line.push(point);
    parent = point.parent;
  }
  return { points: line, broken: null };
}
