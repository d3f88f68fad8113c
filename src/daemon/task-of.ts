/**
 * What the worker of a run is to do: its wish, with what the configuration says now. So a socket that has moved since the
 * run was asked for, or a vault that is mounted elsewhere, does no harm.
 */
import type { OperationName } from '../operations/index.ts';
import type { RunRecord } from './run-record.ts';
import type { KnownVm } from './vms.ts';

type Fields = Readonly<Record<string, unknown>>;

type Work = Pick<RunRecord, 'what' | 'params' | 'attempts'>;

/** @param vm null for work on no single VM @param vault the folder */
export function operationOf(
  { what, params, attempts }: Work,
  vm: KnownVm | null,
  vault: string,
): { operation: OperationName; params: Fields } {
  if (what === 'backup' && vm !== null) {
    return { operation: what, params: { ...backupOf(vm), ...params, vault, ...(attempts > 1 && RESUMED) } };
  }
  if (what === 'prune' && vm !== null) {
    return { operation: what, params: { ...pruneOf(vm), ...params, vault } };
  }
  // In place of what a VM runs on nothing may be restored: whether it does, its socket tells.
  const socket = what === 'restore' && params['inPlace'] === true && vm?.qmp ? { qmp: vm.qmp } : {};
  return { operation: what, params: { ...socket, ...params, vault } };
}

/** Whether it brings its vault along: a share that its worker mounts for itself. */
export function isOnShare({ params }: Pick<RunRecord, 'params'>): boolean {
  return typeof params['vault'] === 'object';
}

/** Of a run on a share: all is as it was asked for, but how a VM is spoken to that somebody has made known. */
export function operationOnShare(
  { what, params, attempts }: Work,
  vms: readonly KnownVm[],
  discover: readonly string[],
): { operation: OperationName; params: Fields } {
  if (what !== 'backup') return { operation: what, params };
  const known = vms.find(({ name, source }) => name === params['instance'] && source !== 'discovered');
  const sockets = {
    ...(known?.qmp && { qmp: known.qmp, ...(known.agent && { agent: known.agent }) }),
    discover,
  };
  return { operation: what, params: { ...params, ...sockets, ...(attempts > 1 && RESUMED) } };
}

/** Of a run whose worker died: it is finished rather than made anew. */
const RESUMED = { resume: true };

function backupOf({ name, qmp, agent, images, exclude, fullEvery, quiesce }: KnownVm): Fields {
  return {
    vm: name,
    ...(qmp !== null && { qmp }),
    ...(agent !== null && { agent }),
    ...(Object.keys(images).length > 0 && { images }),
    ...(exclude.length > 0 && { exclude }),
    fullEvery,
    quiesce,
  };
}

function pruneOf({ name, keep, maxChain, timeZone }: KnownVm): Fields {
  return { vm: name, keep, timeZone, ...(maxChain !== null && { maxChain }) };
}
