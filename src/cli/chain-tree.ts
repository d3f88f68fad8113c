/**
 * The points of a VM as a tree, one below the other. Where a point has one child, that follows without being indented:
 * a chain is a straight line, and only branches stand out.
 */
import { formatBytes } from '../base/units.ts';
import type { PointJson } from '../operations/point-json.ts';
import { children } from '../vault/chain.ts';

export interface TreeRow {
  readonly point: PointJson;
  /** How many branches it lies aside of the line of its full. */
  readonly lane: number;
  /** Lanes to its left that go on below. */
  readonly passing: readonly number[];
  /** The row of what it stands on; null for a full, or when that is missing. */
  readonly parent: number | null;
  readonly storedBytes: number;
}

export function treeRows(points: readonly PointJson[]): TreeRow[] {
  const rows: TreeRow[] = [];
  const ids = new Set(points.map(({ id }) => id));
  const isRoot = ({ parent }: PointJson) => parent === null || !ids.has(parent);
  // A stack and no recursion: a chain may be long.
  const stack = points
    .filter(isRoot)
    .map((point) => ({ point, lane: 0, parent: null as number | null, passing: [] as number[] }));
  stack.reverse();
  for (let next = stack.pop(); next !== undefined; next = stack.pop()) {
    const { point, lane, parent, passing } = next;
    const row = rows.length;
    const storedBytes = point.disks.reduce((sum, disk) => sum + disk.storedBytes, 0);
    rows.push({ point, lane, parent, passing, storedBytes });
    const [line, ...branches] = children(points, point.id).toReversed();
    if (line !== undefined) stack.push({ point: line, lane, parent: row, passing });
    for (const branch of branches) {
      stack.push({ point: branch, lane: lane + 1, parent: row, passing: [...passing, lane] });
    }
  }
  return rows;
}

/** Of these points those that stand on the same full, or would if it were not missing. */
export function familyOf(points: readonly PointJson[], id: string): PointJson[] {
  const roots: number[] = [];
  const rows = treeRows(points);
  for (const [i, { parent }] of rows.entries()) roots.push(parent === null ? i : (roots[parent] ?? i));
  const root = roots[rows.findIndex(({ point }) => point.id === id)];
  const family = new Set(rows.filter((_, i) => roots[i] === root).map(({ point }) => point.id));
  return points.filter((point) => family.has(point.id));
}

/** @param marked the id of a point that is pointed at */
export function treeText(rows: readonly TreeRow[], marked?: string): string {
  return rows
    .map(({ point, lane, passing, parent, storedBytes }, i) => {
      const isBranch = parent !== null && (rows[parent]?.lane ?? 0) < lane;
      const lead = Array.from({ length: lane }, (_, at) =>
        isBranch && at === lane - 1 ? '├─' : passing.includes(at) ? '│ ' : '  ',
      ).join('');
      const gap = parent === null && i > 0 ? '\n' : '';
      const mark = point.id === marked ? '  <-' : '';
      return `${gap}${lead}${point.id}  ${labelOf(point, storedBytes)}${mark}\n`;
    })
    .join('');
}

const ROW_PX = 28;
const LANE_PX = 24;

export function treeSvg(rows: readonly TreeRow[]): string {
  const x = (row: TreeRow) => 20 + row.lane * LANE_PX;
  const y = (index: number) => 20 + index * ROW_PX;
  const lanes = Math.max(0, ...rows.map(({ lane }) => lane));
  const width = 640 + lanes * LANE_PX;
  const edges = rows.flatMap((row, i) => {
    const above = row.parent === null ? undefined : rows[row.parent];
    return above === undefined || row.parent === null
      ? []
      : [`<path d="M${x(above)} ${y(row.parent)} L${x(row)} ${y(i) - ROW_PX / 2} L${x(row)} ${y(i)}"/>`];
  });
  const nodes = rows.map((row, i) => {
    const { point, storedBytes } = row;
    const text = `${point.id}  ${labelOf(point, storedBytes)}`;
    return `<circle class="${point.kind}" cx="${x(row)}" cy="${y(i)}" r="7"/><text x="${20 + (lanes + 1) * LANE_PX}" y="${y(i) + 4}">${escapeXml(text)}</text>`;
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${y(rows.length)}" font-family="monospace" font-size="13">
<style>path{fill:none;stroke:#888;stroke-width:2}circle{stroke:#246;stroke-width:2}.full{fill:#246}.incremental{fill:#fff}</style>
${[...edges, ...nodes].join('\n')}
</svg>
`;
}

function labelOf({ kind, how, sealed, protected: isProtected }: PointJson, storedBytes: number): string {
  const marks = [sealed && 'sealed', isProtected && 'protected'].filter(Boolean);
  return [kind, how, formatBytes(storedBytes), ...marks].join('  ');
}

function escapeXml(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
}
