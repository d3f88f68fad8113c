/**
 * Taking back what a run made: in the VM, on this host, on the NAS. One path for a run that failed, and for one
 * whose engine died; a run that succeeds walks its first half before it publishes.
 */
import { codeOf, messageOf, QmpvaultError } from '../base/errors.ts';
import type { RunId } from '../base/ids.ts';
import { Writer } from '../image/writer.ts';
import type { Lease } from '../vault/lease.ts';
import type { Manifest } from '../vault/manifest.ts';
import type { LeftoverStaging } from '../vault/staging.ts';
import type { Vault } from '../vault/vault.ts';
import type { VmFolder } from '../vault/vm-folder.ts';
import { removeBitmaps } from '../vm/bitmaps.ts';
import { findRuns, unwind } from '../vm/unwind.ts';
import { Vm } from '../vm/vm.ts';
import type { Engine } from './engine.ts';
import { removeRunFolders, vmNbdSocket } from './run-folders.ts';
import {
  type FoundRun,
  forgetProgress,
  type RunFacts,
  type RunRecord,
  readRunRecords,
  removeRunRecord,
  runEnded,
} from './run-journal.ts';

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
export async function takeOut(
  vm: Vm,
  { run, folders, images }: Pick<RunFacts, 'run' | 'folders' | 'images'>,
  { orderly }: { orderly: boolean } = { orderly: false },
): Promise<string[]> {
  return unwind({
    client: vm.client,
    owns: (owner) => owner === run,
    canYank: vm.client.oob && (await vm.capabilities()).yank,
    killWriter: async () => folders.writer !== '' && Writer.killLeftover({ dir: folders.writer }),
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
  // What cannot be taken back now is a dead run's to the next command, also to one of this process.
  runEnded(record.run);
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
  if (published !== true) {
    await attempt('forgetting how far it got', () => forgetProgress(engine.stateDir, record.run));
  }
  if (place === null && !wasOut) {
    warnings.push('the VM cannot be reached to take the run out of it; the next command tries again');
  }
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

/** What became of the runs that dead engines left. */
export interface Reconciled {
  /** Published now, or just before their engines died; newest last. */
  readonly points: readonly Manifest[];
  readonly warnings: readonly string[];
}

export interface ReconcileContext {
  readonly engine: Engine;
  readonly vm: Vm;
  readonly vault: Vault;
  readonly folder: VmFolder;
  readonly lease: Lease;
}

/** @throws what keeps the caller from going on */
export type FinishRun = (
  record: RunRecord,
  points: readonly Manifest[],
) => Promise<{ readonly point: Manifest | null; readonly warnings: readonly string[] }>;

/**
 * At the beginning of every run: finishes what dead runs of this VM in this vault began, and takes away what they left,
 * in the VM and on the NAS. Never touches what a living run owns. A run of which this host has no journal counts as dead only
 * if none of its jobs is at work.
 * @param finish without it, all of them are taken back
 * @throws vm-busy while a living run is at work in this VM
 */
export async function reconcile(context: ReconcileContext, finish?: FinishRun): Promise<Reconciled> {
  const { engine, vm, vault, folder, lease } = context;
  const [records, present, listing] = await Promise.all([
    readRunRecords(engine.stateDir),
    findRuns(vm.client),
    folder.points(),
  ]);
  const points = [...listing.points];
  const ofThisVm = records.filter(({ record }) => isOf(record, vm.uuid, vault, folder));
  refuseLiving(vm, ofThisVm, present);
  const warnings: string[] = [];
  const made: Manifest[] = [];
  for (const { record } of ofThisVm) {
    const here = isHere(record, vault, folder);
    if (!here && !present.has(record.run)) continue;
    const published = points.find(({ run }) => run === record.run);
    if (published !== undefined) made.push(published);
    if (here && published === undefined && finish !== undefined && record.images.length === 0) {
      const finished = await finish(record, points);
      if (finished.point !== null) {
        made.push(finished.point);
        points.push(finished.point);
      }
      warnings.push(...finished.warnings);
      continue;
    }
    // What became of its point only its own vault tells.
    const isPublished = here ? published !== undefined : 'unknown';
    warnings.push(...(await takeBack(engine, placeIn(vm), record, { published: isPublished })));
  }
  for (const run of present.keys()) {
    if (ofThisVm.some(({ record }) => record.run === run)) continue;
    warnings.push(...(await takeOut(vm, { run, folders: NO_FOLDERS, images: [] })));
  }
  await removeStaging(await folder.leftoverStaging(lease), records);
  return { points: made, warnings };
}

/** @returns warnings; that it was taken back is one, unless its point stands */
export async function takeBack(
  engine: Engine,
  place: RunPlace,
  record: RunRecord,
  options: { published: boolean | 'unknown' },
): Promise<string[]> {
  const warnings = await release(engine, place, record, options);
  if (options.published === true) return warnings;
  return [`run ${record.run}, whose engine died, was taken back`, ...warnings];
}

/** How long a VM may take to answer before what a dead run has in flight is taken for the cause. */
const ANSWER_MS = 3_000;

/**
 * While I/O of a dead run to a NAS that hangs is in flight, a reset of the guest hangs QEMU's main loop, and nobody
 * looks after it. The death of the writer frees it; its run cannot be finished then.
 */
export async function freeFromDeadRuns(
  { stateDir }: Engine,
  socket: string,
  signal: AbortSignal | undefined,
): Promise<void> {
  const dead = (await readRunRecords(stateDir)).filter(
    ({ record, living }) => !living && record.vm.socket === socket && record.images.length === 0,
  );
  if (dead.length === 0) return;
  try {
    await using vm = await Vm.connect(socket, { signal, timeoutMs: ANSWER_MS });
    await vm.capabilities();
  } catch (error) {
    if (codeOf(error) !== 'vm-busy') return;
    for (const { record } of dead) await Writer.killLeftover({ dir: record.folders.writer });
  }
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
