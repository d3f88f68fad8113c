/**
 * Taking back what a run made: in the VM, on this host, on the NAS. One path for a run that failed, and for one
 * whose engine died; a run that succeeds walks its first half before it publishes.
 */
import { messageOf, QmpvaultError } from '../base/errors.ts';
import type { RunId } from '../base/ids.ts';
import { Writer } from '../image/writer.ts';
import type { Lease } from '../vault/lease.ts';
import type { VmFolder } from '../vault/vm-folder.ts';
import { removeBitmaps } from '../vm/bitmaps.ts';
import { findRuns, unwind } from '../vm/unwind.ts';
import type { Vm } from '../vm/vm.ts';
import type { Engine } from './engine.ts';
import { removeRunFolders, vmNbdSocket } from './run-folders.ts';
import { type FoundRun, type RunFacts, readRunRecords, removeRunRecord } from './run-journal.ts';

/** Takes a run's jobs and nodes out of the VM. @returns warnings @throws vm-left-unclean */
export function takeOut(vm: Vm, { run, folders }: Pick<RunFacts, 'run' | 'folders'>): Promise<string[]> {
  return unwind({
    client: vm.client,
    owns: (owner) => owner === run,
    canYank: vm.capabilities.yank && vm.client.oob,
    killWriter: () => Writer.killLeftover({ dir: folders.writer }),
    nbdServer: folders.nbd === '' ? null : vmNbdSocket(folders),
  });
}

/**
 * Undoes a run that came to nothing. Each part is tried whatever became of the others; the journal goes last, and
 * only if all of it worked, so that the next command can go on.
 * @param vm null when it cannot be reached: then the journal stays, for when it is back
 * @param out the run's nodes were taken out of the VM already
 * @returns warnings
 */
export async function release(
  engine: Engine,
  vm: Vm | null,
  record: RunFacts,
  { published, out: wasOut = false }: { published: boolean; out?: boolean },
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
    vm !== null &&
    (wasOut ||
      (await attempt('taking the run out of the VM', async () =>
        warnings.push(...(await takeOut(vm, record))),
      )));
  const writerGone = await attempt('ending its writer', () =>
    Writer.killLeftover({ dir: record.folders.writer }),
  );
  // Scratch files would vanish under a filter that is still in.
  if (vm === null || out) await attempt('removing its folders', () => removeRunFolders(record.folders));
  if (!out || !writerGone) return warnings;
  const bitmapsGone =
    published ||
    (await attempt('removing its bitmaps', () => removeBitmaps(vm.client, new Set(record.bitmaps))));
  if (bitmapsGone) await removeRunRecord(engine.stateDir, record.run);
  return warnings;
}

/**
 * At the beginning of every run: takes away what dead runs left, in the VM and on the NAS. Never what a living run
 * owns. A run of which this host has no journal counts as dead only if none of its jobs is at work.
 * @throws vm-busy while a living run is at work in this VM
 */
export async function reconcile(engine: Engine, vm: Vm, folder: VmFolder, lease: Lease): Promise<string[]> {
  const [records, present, leftovers, { points }] = await Promise.all([
    readRunRecords(engine.stateDir),
    findRuns(vm.client),
    folder.leftoverStaging(lease),
    folder.points(),
  ]);
  const ofThisVm = records.filter(({ record }) => record.vm.uuid === vm.uuid);
  refuseLiving(vm, ofThisVm, present);
  const warnings: string[] = [];
  for (const { record } of ofThisVm) {
    if (record.vm.name !== folder.name) continue;
    engine.log.info({ run: record.run }, 'cleaning up after a run whose engine died');
    const published = points.some((point) => point.run === record.run);
    warnings.push(...(await release(engine, vm, record, { published })));
  }
  for (const run of present.keys()) {
    if (ofThisVm.some(({ record }) => record.run === run)) continue;
    warnings.push(...(await takeOut(vm, { run, folders: { writer: '', nbd: '', scratch: '' } })));
  }
  for (const staging of leftovers) {
    const owner = records.find(({ record }) => record.run === staging.runId);
    if (owner?.living) continue;
    await staging.remove();
  }
  return warnings;
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
