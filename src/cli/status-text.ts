/** How the daemon, its vaults, its VMs and its runs are, in columns. */
import { formatBytes, formatDuration } from '../base/units.ts';
import type { Run } from '../rpc/run.ts';
import type { DaemonStatus, VmStatus } from '../rpc/status.ts';
import { properties, table } from './table.ts';

/** @param runs those that have not ended, and perhaps some that just have */
export function statusText(status: DaemonStatus, runs: readonly Run[], now: Date): string {
  const { version, pid, startedAt, state, config } = status;
  const { running, limit, queued, bandwidth } = status.runs;
  const about = properties([
    ['daemon', `${version}, pid ${pid}, ${state} for ${ago(startedAt, now)}`],
    ['configuration', config.problem === null ? config.file : `${config.file}: REFUSED: ${config.problem}`],
    [
      'runs',
      `${running} of ${limit}, ${queued} queued${bandwidth === null ? '' : `, ${formatBytes(bandwidth)}/s together`}`,
    ],
  ]);
  return [about, vaultTable(status), vmTable(status.vms, now), runs.length > 0 ? runTable(runs) : '']
    .filter((part) => part !== '')
    .join('\n');
}

function vaultTable({ vaults }: DaemonStatus): string {
  const rows = vaults.map(({ name, state, freeBytes, totalBytes, why, path }) => [
    name,
    state,
    freeBytes === null ? '' : formatBytes(freeBytes),
    totalBytes === null ? '' : formatBytes(totalBytes),
    why ?? path,
  ]);
  return table(['VAULT', 'STATE', 'FREE', 'SIZE', ''], rows, ['FREE', 'SIZE']);
}

function vmTable(vms: readonly VmStatus[], now: Date): string {
  const rows = vms.map(({ name, state, lastPoint, nextRun, bitmaps, vault, problem }) => [
    name,
    state,
    vault ?? '',
    lastPoint === null ? '' : `${ago(lastPoint.createdAt, now)} ago`,
    nextRun === null ? '' : `${nextRun.what} ${nextRun.at.slice(0, 16).replace('T', ' ')}Z`,
    bitmaps,
    problem ?? '',
  ]);
  return table(['VM', 'STATE', 'VAULT', 'NEWEST POINT', 'NEXT', 'BITMAPS', 'PROBLEM'], rows);
}

export function runTable(runs: readonly Run[]): string {
  const rows = runs.map((run) => [run.id, run.what, run.vm ?? '', run.state, ...farOf(run)]);
  return table(['RUN', 'WHAT', 'VM', 'STATE', 'DONE', 'RATE', 'LEFT', ''], rows, ['DONE', 'RATE', 'LEFT']);
}

function farOf({ state, progress, waitingFor, error, point }: Run): string[] {
  const words = waitingFor ?? error?.message ?? point ?? progress?.phase ?? '';
  if (progress === null || state !== 'running') return ['', '', '', words];
  const { doneBytes, totalBytes, bytesPerSecond, leftMs } = progress;
  return [
    totalBytes === 0 ? '' : `${Math.floor((doneBytes / totalBytes) * 100)}%`,
    bytesPerSecond === null ? '' : `${formatBytes(bytesPerSecond)}/s`,
    leftMs === null ? '' : formatDuration(leftMs),
    words,
  ];
}

function ago(iso: string, now: Date): string {
  return formatDuration(Math.max(0, now.getTime() - Date.parse(iso)));
}
