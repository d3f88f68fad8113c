/** Restore points in words and columns. */
import { formatBytes } from '../base/units.ts';
import type { PointDetailsJson, PointJson } from '../operations/point-json.ts';
import { properties, table } from './table.ts';

/** @param withVm when points of several VMs are listed */
export function pointTable(points: readonly PointJson[], withVm: boolean): string {
  const heading = ['POINT', 'CREATED (UTC)', 'KIND', 'HOW', 'CONSISTENCY', 'STORED', 'DISKS'];
  const rows = points.map((point) => [
    point.id,
    utc(point.createdAt),
    point.kind,
    point.sealed ? `${point.how}, sealed` : point.how,
    point.consistency,
    formatBytes(sum(point, 'storedBytes')),
    point.disks.map(({ name }) => name).join(' '),
  ]);
  if (!withVm) return table(heading, rows, ['STORED']);
  return table(
    ['VM', ...heading],
    rows.map((row, i) => [points[i]?.vm ?? '', ...row]),
    ['STORED'],
  );
}

/** @param chain the ids that it needs, or why that cannot be said */
export function pointDetails(point: PointDetailsJson, chain: string): string {
  const { freezeMs, pauseMs, copyMs, totalMs } = point.timings;
  const timings = Object.entries({ freeze: freezeMs, pause: pauseMs, copy: copyMs, total: totalMs })
    .filter(([, ms]) => ms !== null)
    .map(([name, ms]) => `${name} ${ms} ms`);
  const left = point.left.map(({ name, why }): [string, string] => ['left out', `${name}: ${why}`]);
  const disks = point.disks.map(
    ({ name, kind, virtualSizeBytes, copiedBytes, storedBytes, file, sha256 }) => [
      name,
      kind,
      formatBytes(virtualSizeBytes),
      formatBytes(copiedBytes),
      formatBytes(storedBytes),
      file,
      sha256 ?? 'pending',
    ],
  );
  const about = properties([
    ['point', point.id],
    ['vm', `${point.vm} (${point.uuid})`],
    ['created', `${utc(point.createdAt)} UTC`],
    ['kind', point.kind],
    ['how', `${point.how}: ${point.why}`],
    ['consistency', point.consistency],
    ['sealed', point.sealed ? 'yes: the next backup begins a new chain' : 'no'],
    ['chain', chain],
    ['timings', timings.join(', ')],
    ['made by', `qmpvault ${point.versions.engine}, QEMU ${point.versions.qemu}`],
    ...left,
  ]);
  const heading = ['DISK', 'KIND', 'SIZE', 'COPIED', 'STORED', 'FILE', 'SHA256'];
  return `${about}\n${table(heading, disks, ['SIZE', 'COPIED', 'STORED'])}`;
}

/** One line for the end of a backup. */
export function pointSummary(point: PointJson): string {
  const { id, kind, how, vm, timings, consistency } = point;
  const copied = formatBytes(sum(point, 'copiedBytes'));
  const stored = formatBytes(sum(point, 'storedBytes'));
  const seconds = (timings.totalMs / 1000).toFixed(1);
  return `${vm}: point ${id}, ${kind} (${how}), ${consistency}-consistent, ${copied} copied, ${stored} stored, ${seconds} s\n`;
}

function sum(point: PointJson, key: 'copiedBytes' | 'storedBytes'): number {
  return point.disks.reduce((total, disk) => total + disk[key], 0);
}

/** `2026-11-20 08:41:12` */
function utc(iso: string): string {
  return new Date(iso).toISOString().slice(0, 19).replace('T', ' ');
}
