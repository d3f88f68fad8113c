/**
 * Holds: what lies outside of the vault and stands on one of its points, as the overlays of an instant restore do. A
 * hold is no process, so it does not lapse, neither by time nor because its host is gone: it ends when its files need
 * the point no more, or when an operator says so. While it lasts, the point and all that it stands on stay as they are.
 *
 * Its maker is registered as a reader until the hold is durable; a changer looks for holds after it waited for the
 * readers. Whatever the order, one of them sees the other.
 */
import { randomBytes } from 'node:crypto';
import * as fs from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { QmpvaultError } from '../base/errors.ts';
import { type DiskName, diskName, type PointId, pointId } from '../base/ids.ts';
import { ancestors } from './chain.ts';
import { createFileDurably, removeDurably, syncFolder, writeFileDurably } from './durable.ts';
import { ioError, unlessMissing } from './io-error.ts';
import { HOLDS_FOLDER } from './layout.ts';
import { FORMAT, type Manifest, named, parseVaultJson } from './manifest.ts';
import { thisProcess } from './owner.ts';
import { readText } from './read-text.ts';

export interface Hold {
  format: typeof FORMAT;
  id: string;
  point: PointId;
  /** In words: `instant restore`. */
  what: string;
  /** Where its files are. */
  host: string;
  machineId: string | null;
  /** Those that still need the point; absolute paths on that host. */
  disks: { name: DiskName; path: string }[];
  since: string;
}

const schema: z.ZodType<Hold> = z.looseObject({
  format: z.literal(FORMAT),
  id: z.string().regex(/^[0-9a-f]{8}$/),
  point: named(pointId),
  what: z.string(),
  host: z.string(),
  machineId: z.string().nullable(),
  disks: z.array(z.looseObject({ name: named(diskName), path: z.string() })),
  since: z.iso.datetime(),
});

/** Durable before it returns. @throws vault-full, vault-unreadable, sync-failed */
export async function addHold(
  folder: string,
  { point, what, disks }: Pick<Hold, 'point' | 'what' | 'disks'>,
): Promise<Hold> {
  const { host, machineId } = thisProcess();
  const id = randomBytes(4).toString('hex');
  const hold: Hold = {
    format: FORMAT,
    id,
    point,
    what,
    host,
    machineId,
    disks,
    since: new Date().toISOString(),
  };
  const path = pathOf(folder, id);
  try {
    const made = await fs.mkdir(join(folder, HOLDS_FOLDER), { recursive: true });
    if (made !== undefined) await syncFolder(folder);
  } catch (error) {
    throw ioError(error, 'making', join(folder, HOLDS_FOLDER));
  }
  if (await createFileDurably(path, textOf(hold))) return hold;
  throw new QmpvaultError('internal', `${path} exists`);
}

/** One that cannot be read is an error: nobody knows then what must not be changed. @throws manifest-invalid, vault-format, vault-unreadable */
export async function readHolds(folder: string): Promise<Hold[]> {
  const path = join(folder, HOLDS_FOLDER);
  const names = (await unlessMissing(fs.readdir(path), 'listing', path)) ?? [];
  const holds: Hold[] = [];
  for (const name of names.filter((name) => name.endsWith('.json'))) {
    const text = await readText(join(path, name));
    if (text !== undefined) holds.push(parseVaultJson(schema, text, join(path, name)));
  }
  return holds.toSorted((a, b) => (a.since < b.since ? -1 : 1));
}

/** Takes disks out of a hold; with the last one it ends. Idempotent. @throws vault-full, vault-unreadable, sync-failed */
export async function releaseHold(folder: string, { id }: Hold, names: readonly DiskName[]): Promise<void> {
  const path = pathOf(folder, id);
  const text = await readText(path);
  if (text === undefined) return;
  const hold = parseVaultJson(schema, text, path);
  const disks = hold.disks.filter(({ name }) => !names.includes(name));
  if (disks.length === 0) await removeDurably(path);
  else await writeFileDurably(path, textOf({ ...hold, disks }));
}

/** Whether its files are on this host: only then can anything be said of them. */
export function isOfThisHost({ host, machineId }: Hold): boolean {
  const me = thisProcess();
  return host === me.host && machineId === me.machineId;
}

/** Pure. Which points must stay as they are, and because of which hold. */
export function heldPoints(points: readonly Manifest[], holds: readonly Hold[]): Map<PointId, Hold> {
  const held = new Map<PointId, Hold>();
  for (const hold of holds) {
    if (!points.some(({ id }) => id === hold.point)) continue;
    for (const { id } of lineOf(points, hold.point)) if (!held.has(id)) held.set(id, hold);
    held.set(hold.point, hold);
  }
  return held;
}

/** Of a chain that is broken, all that may belong to it: every point that can be read. */
function lineOf(points: readonly Manifest[], id: PointId): readonly Manifest[] {
  try {
    return ancestors(points, id);
  } catch {
    return points;
  }
}

/** @throws point-held */
export function refuseHeld(held: ReadonlyMap<PointId, Hold>, going: readonly PointId[]): void {
  for (const point of going) {
    const hold = held.get(point);
    if (hold === undefined) continue;
    const { id, what, host, disks } = hold;
    const files = disks.map(({ path }) => path).join(', ');
    throw new QmpvaultError(
      'point-held',
      `${point} is needed by the ${what} ${id} (${files} on ${host}): fill it with 'qmpvault fill', or end it with 'qmpvault holds --end ${id}'`,
      { details: { point, hold: id, host, files: disks.map(({ path }) => path) } },
    );
  }
}

function pathOf(folder: string, id: string): string {
  return join(folder, HOLDS_FOLDER, `${id}.json`);
}

function textOf(hold: Hold): string {
  return `${JSON.stringify(hold, null, 2)}\n`;
}
