/** Listing a VM's points: bounded in memory and in open files, and never hiding a point that cannot be read. */
import type { Dirent } from 'node:fs';
import { join } from 'node:path';
import { QmpvaultError } from '../base/errors.ts';
import { inOrder } from './chain.ts';
import type { Change } from './change.ts';
import { ioError } from './io-error.ts';
import { MANIFEST_FILE } from './layout.ts';
import { type Manifest, parseManifest } from './manifest.ts';
import { readText } from './read-text.ts';

/** More do not help: Node has four threads for files unless UV_THREADPOOL_SIZE says otherwise. */
const AT_ONCE = 16;

export interface BrokenPoint {
  /** The folder's name. */
  readonly id: string;
  readonly error: QmpvaultError;
}

export interface PointListing {
  /** Oldest first. */
  readonly points: Manifest[];
  /** They exist, and others may need them. */
  readonly broken: BrokenPoint[];
  /** No points any more, but files of theirs may still be under others, until the open change is finished. */
  readonly going: Manifest[];
  /** The change that is open. */
  readonly change: Change | null;
}

/** @param entries of the VM's folder, those that are points by their name */
export async function readPoints(
  folder: string,
  entries: readonly Dirent[],
  change: Change | null,
): Promise<PointListing> {
  const found: Manifest[] = [];
  const broken: BrokenPoint[] = [];
  const waiting = entries.values();
  const readSome = async () => {
    for (const entry of waiting) {
      const id = entry.name;
      try {
        found.push(await readManifest(folder, entry));
      } catch (error) {
        broken.push({ id, error: ioError(error, 'reading', join(folder, id, MANIFEST_FILE)) });
      }
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, readSome));
  const isGoing = ({ id }: { id: string }) => change?.removes.some((removed) => removed === id) ?? false;
  return {
    points: inOrder(found.filter((point) => !isGoing(point))),
    // A point that goes may have lost its manifest already.
    broken: broken.filter((point) => !isGoing(point)).toSorted((a, b) => (a.id < b.id ? -1 : 1)),
    going: found.filter(isGoing),
    change,
  };
}

/** @throws manifest-invalid, vault-format, vault-unreadable */
async function readManifest(folder: string, entry: Dirent): Promise<Manifest> {
  const id = entry.name;
  const path = join(folder, id, MANIFEST_FILE);
  if (!entry.isDirectory()) {
    throw new QmpvaultError(
      'link-refused',
      `${join(folder, id)} is no folder: what it leads to is not looked at`,
      {
        details: { path: join(folder, id) },
      },
    );
  }
  const text = await readText(path);
  if (text === undefined) {
    throw new QmpvaultError('manifest-invalid', `${path} is missing`, { details: { path } });
  }
  const manifest = parseManifest(text, path);
  if (manifest.id === id) return manifest;
  throw new QmpvaultError('manifest-invalid', `${path} is the manifest of another point, ${manifest.id}`, {
    details: { path, id: manifest.id },
  });
}
