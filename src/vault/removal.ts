/**
 * Removing a point: its id is written down first, then the folder loses its name, which ends the point, then its
 * files go. An id that was removed must not come back: a bitmap, a journal or a script may still speak of the old one.
 */
import * as fs from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { QmpvaultError } from '../base/errors.ts';
import type { PointId } from '../base/ids.ts';
import { removeDurably, renameDurably, writeFileDurably } from './durable.ts';
import { ioError, unlessMissing } from './io-error.ts';
import { REMOVED_PREFIX, RETIRED_FILE } from './layout.ts';
import type { Lease } from './lease.ts';
import { FORMAT, parseVaultJson } from './manifest.ts';
import { readText } from './read-text.ts';

const retiredSchema = z.looseObject({ format: z.literal(FORMAT), ids: z.array(z.string()) });

export async function isRetired(folder: string, id: PointId): Promise<boolean> {
  return (await retiredIds(folder)).includes(id);
}

export async function removePoint(folder: string, id: PointId, lease: Lease): Promise<void> {
  const path = join(folder, id);
  const removed = join(folder, REMOVED_PREFIX + id);
  if ((await unlessMissing(fs.lstat(path), 'looking for', path)) === undefined) {
    throw new QmpvaultError('point-unknown', `there is no restore point ${id} in ${folder}`, {
      details: { path, point: id },
    });
  }
  const ids = await retiredIds(folder);
  await lease.assertHeld();
  if (!ids.includes(id)) {
    const text = `${JSON.stringify({ format: FORMAT, ids: [...ids, id] })}\n`;
    await writeFileDurably(join(folder, RETIRED_FILE), text);
  }
  await lease.assertHeld();
  await renameDurably(path, removed, async () => (await fs.lstat(removed)).isDirectory());
  await removeDurably(removed);
}

/** Only for the holder of the lease. */
export async function finishRemovals(folder: string): Promise<void> {
  const names = await fs.readdir(folder).catch((error: unknown) => {
    throw ioError(error, 'listing', folder);
  });
  for (const name of names.filter((name) => name.startsWith(REMOVED_PREFIX))) {
    await removeDurably(join(folder, name));
  }
}

async function retiredIds(folder: string): Promise<string[]> {
  const path = join(folder, RETIRED_FILE);
  const text = await readText(path);
  return text === undefined ? [] : parseVaultJson(retiredSchema, text, path).ids;
}
