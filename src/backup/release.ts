/**
 * Taking back what a run made: in the VM, on this host, on the NAS. One path for a run that failed, and for one
 * whose engine died; a run that succeeds walks its first half before it publishes.
 */
import { messageOf, QmpvaultError } from '../base/errors.ts';
import type { RunId } from '../base/ids.ts';
import { Writer } from '../image/writer.ts';
import type { Lease } from '../vault/lease.ts';
import type { LeftoverStaging } from '../vault/staging.ts';
import type { Vault } from '../vault/vault.ts';
import type { VmFolder } from '../vault/vm-folder.ts';
import { removeBitmaps } from '../vm/bitmaps.ts';
import { findRuns, unwind } from '../vm/unwind.ts';
import type { Vm } from '../vm/vm.ts';
import type { Engine } from './engine.ts';
import { removeRunFolders, vmNbdSocket } from './run-folders.ts';
import { type FoundRun, type RunFacts, readRunRecords, removeRunRecord } from './run-journal.ts';

/** Where the things of runs lie: in a running VM, or in the images of a stopped one. */
export interface RunPlace {
  /** @returns warnings @throws vm-left-unclean */
  takeOut(record: RunFacts): Promise<string[]>;
  removeBitmaps(isWanted: (name: string) => boolean): Promise<void>;
}

export function placeIn(vm: Vm): RunPlace {
  return {
    takeOut: (record) => takeOut(vm, record),
    removeBitmaps: (isWanted) => removeBitmaps(vm.client, isWanted),
  };
}

/** Takes a run's jobs and nodes out of the VM. @returns warnings @throws vm-left-unclean */
export function takeOut(
  vm: Vm,
  { run, folders, images }: Pick<RunFacts, 'run' | 'folders' | 'images'>,
  { orderly }: { orderly: boolean } = { orderly: false },
): Promise<string[]> {
  return unwind({
    client: vm.client,
    owns: (owner) => owner === run,
    canYank: vm.capabilities.yank && vm.client.oob,
    killWriter: async () => {
      if (folders.writer !== '') await Writer.killLeftover({ dir: folders.writer });
    },
    orderly,
    // While the VM was stopped the NBD server was not in it, but in the run's own daemon.
    nbdServer: folders.nbd === '' || images.length > 0 ? null : vmNbdSocket(folders),
  });
}

/**
 * Undoes a run that came to nothing. Each part is tried whatever became of the others; the journal goes last, and
 * only if all of it worked, so that the next command can go on.
 * @param place null when the VM cannot be reached: then the journal stays, for when it is back
 * @param published whether its point exists: then its bitmaps stay. `unknown`: they stay, and the journal too
 * @param out the run's nodes were taken out of the VM already
 * @returns warnings
 */
export async function release(
  engine: Engine,
  place: RunPlace | null,
  record: RunFacts,
  { published, out: wasOut = false }: { published: boolean | 'unknown'; out?: boolean },
): Promise<string[]> {
  const warnings: string[] = [];
  const attempt = async (what: string, step: () => Promise<unknown>): Promise<boolean> => {
    try {
      await step();
      return true;
    } catch (error) {
      warnings.push(`${what} failed: ${messageOf(error)}; the next command tries again`);
      return false;
    }
  };
  const out =
    place !== null &&
    (wasOut ||
      (await attempt('taking the run out of the VM', async () =>
        warnings.push(...(await place.takeOut(record))),
      )));
  const writerGone = await attempt('ending its writer', () =>
    Writer.killLeftover({ dir: record.folders.writer }),
  );
  // Scratch files would vanish under a filter that is still in.
  if (place === null || out) await attempt('removing its folders', () => removeRunFolders(record.folders));
  if (!out || !writerGone || published === 'unknown') return warnings;
  const bitmapsGone =
    published ||
    (await attempt('removing its bitmaps', () =>
      place.removeBitmaps((name) => record.bitmaps.includes(name)),
    ));
  if (bitmapsGone) await removeRunRecord(engine.stateDir, record.run);
  return warnings;
}

/**
 * At the beginning of every run: takes away what dead runs left, in the VM and on the NAS. Never what a living run
 * owns. A run of which this host has no journal counts as dead only if none of its jobs is at work.
 * @throws vm-busy while a living run is at work in this VM
 */
export async function reconcile(
  engine: Engine,
  vm: Vm,
  vault: Vault,
  folder: VmFolder,
  lease: Lease,
): Promise<string[]> {
  const [records, present, leftovers, { points }] = await Promise.all([
    readRunRecords(engine.stateDir),
    findRuns(vm.client),
    folder.leftoverStaging(lease),
    folder.points(),
  ]);
  const ofThisVm = records.filter(({ record }) => isOf(record, vm.uuid, vault, folder));
  refuseLiving(vm, ofThisVm, present);
  const warnings: string[] = [];
  for (const { record } of ofThisVm) {
    const here = isHere(record, vault, folder);
    if (!here && !present.has(record.run)) continue;
    engine.log.info({ run: record.run }, 'cleaning up after a run whose engine died');
    // What became of its point only its own vault tells.
    const published = here ? points.some((point) => point.run === record.run) : 'unknown';
    warnings.push(...(await release(engine, placeIn(vm), record, { published })));
  }
  for (const run of present.keys()) {
    if (ofThisVm.some(({ record }) => record.run === run)) continue;
    warnings.push(...(await takeOut(vm, { run, folders: NO_FOLDERS, images: [] })));
  }
  await removeStaging(leftovers, records);
  return warnings;
}

const NO_FOLDERS = { writer: '', nbd: '', scratch: '' };

/** The UUID of a VM that was backed up only while it was stopped is not known. */
function isOf(record: RunFacts, uuid: string, vault: Vault, folder: VmFolder): boolean {
  return record.vm.uuid === uuid || (record.vm.uuid === '' && isHere(record, vault, folder));
}

export function isHere(record: RunFacts, vault: Vault, folder: VmFolder): boolean {
  return record.vault.id === vault.id && record.vm.name === folder.name;
}

export async function removeStaging(
  leftovers: readonly LeftoverStaging[],
  records: readonly FoundRun[],
): Promise<void> {
  for (const staging of leftovers) {
    const owner = records.find(({ record }) => record.run === staging.runId);
    if (!owner?.living) await staging.remove();
  }
}

function refuseLiving(
  vm: Vm,
  records: readonly FoundRun[],
  present: ReadonlyMap<RunId, { working: boolean }>,
): void {
  for (const [run, { working }] of present) {
    const found = records.find(({ record }) => record.run === run);
    if (found === undefined ? !working : !found.living) continue;
    throw new QmpvaultError(
      'vm-busy',
      `another run (${run}) is at work in the VM on ${vm.socket}: wait for its end`,
      {
        details: { run, owner: found?.record.owner ?? null },
      },
    );
  }
}
