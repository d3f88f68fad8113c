/** Carries a change out, from wherever it stands: the same for the command that began it and for the one after a crash. */
import * as fs from 'node:fs/promises';
import { join } from 'node:path';
import { codeOf, messageOf } from '../base/errors.ts';
import type { PointId } from '../base/ids.ts';
import type { Step } from '../base/steps.ts';
import { endLeftoverTools } from '../image/leftover-tools.ts';
import type { Change, DiskFile, Move } from '../vault/change.ts';
import { ioError, unlessMissing } from '../vault/io-error.ts';
import type { Lease } from '../vault/lease.ts';
import type { Manifest, ManifestDisk } from '../vault/manifest.ts';
import type { VmFolder } from '../vault/vm-folder.ts';
import { asChanged } from './delete-plan.ts';
import type { UpkeepControl, UpkeepEngine } from './engine.ts';
import { commit, discard, gather, type MoveContext, switchOver } from './moves.ts';
import { type Reserve, takeReserve } from './reserve.ts';
import { WorkMeter } from './work.ts';

/** How long readers may keep a change waiting, unless the caller says. */
const READERS_MS = 0;

export interface ChangeSite extends UpkeepControl {
  readonly engine: UpkeepEngine;
  readonly folder: VmFolder;
  readonly lease: Lease;
  /** How long to wait for those who read. */
  readonly readersMs?: number | undefined;
}

/**
 * Opens the journal and does what it says.
 * @returns the points that were given other files, digests pending
 * @throws vault-locked while somebody reads, point-held, and whatever kept it from being gathered: then all is as before. Later
 *   errors leave the change open: it is finished by whoever takes the lease next.
 */
export async function beginChange(site: ChangeSite, change: Change): Promise<Manifest[]> {
  const { engine, folder, lease, signal, readersMs = READERS_MS } = site;
  await engine.reachStep('delete-journal');
  await folder.writeChange(change, lease);
  try {
    await folder.waitForReaders(lease, { waitMs: readersMs, signal });
    await folder.refuseHeld(change.removes);
  } catch (error) {
    await folder.closeChange(lease);
    throw error;
  }
  return carryOut(site, change);
}

/** Goes on with a change that a dead process began. @throws as beginChange */
export async function resumeChange(site: ChangeSite, change: Change): Promise<Manifest[]> {
  const { engine, folder, lease, signal, readersMs = READERS_MS } = site;
  engine.log.info({ vm: folder.name, change: change.what }, 'finishing what a dead process began');
  await endLeftoverTools(folder.path);
  await folder.waitForReaders(lease, { waitMs: readersMs, signal });
  await folder.refuseHeld(change.removes);
  return carryOut(site, change);
}

async function carryOut(site: ChangeSite, change: Change): Promise<Manifest[]> {
  const { folder, lease } = site;
  const step: Progress['step'] = async (name, act) => {
    await site.engine.reachStep(`delete-${name}`);
    await lease.assertHeld();
    await act();
  };
  const needed = new Set(change.moves.map(({ from }) => from.point));
  for (const id of change.removes) if (!needed.has(id)) await step('remove', () => remove(site, id));

  const { points } = await folder.points();
  const kept = (id: PointId) => points.find((point) => point.id === id);
  // One that is gone was removed by somebody who needed the room to finish this.
  const moves = change.moves.filter(({ point }) => kept(point) !== undefined);
  if (moves.length > 0) {
    const reserve = await takeReserve(folder.path);
    try {
      await moveAll(site, change, moves, { step, reserve });
    } finally {
      await reserve.free();
    }
  }
  const changed: Manifest[] = [];
  for (const { point: id } of change.parents) {
    const point = kept(id);
    if (point === undefined) continue;
    const described = await measured(folder, asChanged(point, change), moves);
    await step('describe', () => folder.replaceManifest(described, lease));
    changed.push(described);
  }
  for (const id of change.removes) if (needed.has(id)) await step('remove', () => remove(site, id));
  await step('close', () => folder.closeChange(lease));
  return changed;
}

type ChangeStep = Extract<Step, `delete-${string}`> extends `delete-${infer Name}` ? Name : never;

interface Progress {
  readonly step: (name: ChangeStep, act: () => Promise<unknown>) => Promise<void>;
  readonly reserve: Reserve;
}

async function moveAll(
  site: ChangeSite,
  change: Change,
  moves: readonly Move[],
  progress: Progress,
): Promise<void> {
  const { step } = progress;
  const metered = await meter(site, change, moves);
  if (change.stage === 'gathering') await gatherAll(site, change, moves, progress, metered);
  // Who reads the old files leaves them before one is written into them.
  const last = moves.filter(({ how }) => how === 'commit');
  for (const move of moves) if (move.how !== 'commit') await step('switch', () => switchOver(site, move));
  for (const move of last) await step('commit', () => metered(move, (context) => commit(context, move)));
  for (const move of last) await step('switch', () => switchOver(site, move));
}

/** Does one of the moves that copy, and tells how far it is. */
type Metered = (move: Move, act: (context: MoveContext) => Promise<void>) => Promise<void>;

async function meter(site: ChangeSite, { removes, what }: Change, moves: readonly Move[]): Promise<Metered> {
  const { folder, onWork } = site;
  const bytes = new Map<Move, number>();
  for (const move of moves) {
    const own = move.how === 'pull' ? 0 : await sizeIfThere(folder, move);
    bytes.set(move, own + (move.how === 'commit' ? 0 : await sizeIfThere(folder, move.from)));
  }
  const totalBytes = [...bytes.values()].reduce((sum, one) => sum + one, 0);
  const all = new WorkMeter(onWork, { phase: 'merging', name: removes.at(-1) ?? what, totalBytes });
  return async (move, act) => {
    const moveBytes = bytes.get(move) ?? 0;
    await act({ ...site, onProgress: onWork && ((fraction) => all.at(fraction, moveBytes)) });
    all.finish(moveBytes);
  };
}

async function sizeIfThere(folder: VmFolder, { point, file }: DiskFile): Promise<number> {
  const path = join(folder.path, point, file);
  return (await unlessMissing(fs.stat(path), 'looking for', path))?.size ?? 0;
}

async function gatherAll(
  site: ChangeSite,
  change: Change,
  moves: readonly Move[],
  { step, reserve }: Progress,
  metered: Metered,
): Promise<void> {
  try {
    for (const move of moves) {
      if (move.how !== 'commit')
        await step(move.how, () => metered(move, (context) => gather(context, move)));
    }
  } catch (error) {
    // The first error says more. An undoing that fails leaves the change to the next command.
    await undo(site, moves, reserve).catch((failure: unknown) => {
      const details = { vm: site.folder.name, why: messageOf(failure) };
      site.engine.log.warn(details, `could not undo the ${change.what}`);
    });
    throw error;
  }
  await step('gathered', () => site.folder.writeChange({ ...change, stage: 'switching' }, site.lease));
}

/** Nothing is lost by it: files that pulled something in are longer than before, and their manifests say so. */
async function undo(
  site: MoveContext & Pick<ChangeSite, 'lease'>,
  moves: readonly Move[],
  reserve: Reserve,
): Promise<void> {
  const { folder, lease } = site;
  await reserve.free();
  for (const move of moves) await discard(site, move);
  const { points } = await folder.points();
  for (const point of points) {
    const pulled = moves.filter((move) => move.point === point.id && move.how === 'pull');
    if (pulled.length > 0) await folder.replaceManifest(await measured(folder, point, pulled), lease);
  }
  await folder.closeChange(lease);
}

/** With the sizes of the files that were moved, and their digests pending. */
async function measured(folder: VmFolder, point: Manifest, moves: readonly Move[]): Promise<Manifest> {
  const disks: ManifestDisk[] = [];
  for (const disk of point.disks) {
    const isMoved = moves.some((move) => move.point === point.id && move.disk === disk.name);
    const path = join(folder.path, point.id, disk.file);
    disks.push(isMoved ? { ...disk, storedBytes: await sizeOf(path), sha256: null } : disk);
  }
  return { ...point, disks };
}

async function sizeOf(path: string): Promise<number> {
  try {
    return (await fs.stat(path)).size;
  } catch (error) {
    throw ioError(error, 'looking for', path);
  }
}

/** Whether it was removed before does not matter. */
async function remove({ folder, lease }: ChangeSite, id: PointId): Promise<void> {
  await folder.removePoint(id, lease).catch((error: unknown) => {
    if (codeOf(error) !== 'point-unknown') throw error;
  });
}
