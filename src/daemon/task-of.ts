/**
 * What the worker of a run is to do: its wish, with what the configuration says now. So a socket that has moved since the
 * run was asked for, or a vault that is mounted elsewhere, does no harm.
 */
import type { OperationName } from '../operations/index.ts';
import type { RunRecord } from './run-record.ts';
import type { KnownVm } from './vms.ts';

type Fields = Readonly<Record<string, unknown>>;

/** @param vm null for work on no single VM @param vault the folder */
export function operationOf(
  { what, params, attempts }: Pick<RunRecord, 'what' | 'params' | 'attempts'>,
  vm: KnownVm | null,
  vault: string,
): { operation: OperationName; params: Fields } {
  if (what === 'backup' && vm !== null) {
    return { operation: what, params: { ...backupOf(vm), ...params, vault, ...(attempts > 1 && RESUMED) } };
  }
  if (what === 'prune' && vm !== null) {
    return { operation: what, params: { ...pruneOf(vm), ...params, vault } };
  }
  return { operation: what, params: { ...params, vault } };
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
