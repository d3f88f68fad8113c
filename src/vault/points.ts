/** Listing a VM's points: bounded in memory and in open files, and never hiding a point that cannot be read. */
import type { Dirent } from 'node:fs';
import { join } from 'node:path';
import { QmpvaultError } from '../base/errors.ts';
import { type ChainPoint, inOrder } from './chain.ts';
import type { Change } from './change.ts';
import { ioError } from './io-error.ts';
import { MANIFEST_FILE } from './layout.ts';
import { type Manifest, parseManifest } from './manifest.ts';
import { readText } from './read-text.ts';

/** As many as there are threads for them (node-flags.ts). */
const AT_ONCE = 16;

export interface BrokenPoint {
  /** The folder's name. */
  readonly id: string;
  readonly error: QmpvaultError;
}

export interface PointListing<P extends ChainPoint = Manifest> {
  /** Oldest first. */
  readonly points: P[];
  /** They exist, and others may need them. */
  readonly broken: BrokenPoint[];
  /** No points any more, but files of theirs may still be under others, until the open change is finished. */
  readonly going: P[];
  /** The change that is open. */
  readonly change: Change | null;
}

/** What is wanted of a point. @param path its manifest's @throws when that cannot be read */
export type ReadPoint<P> = (path: string, id: string) => Promise<P>;

/** @param entries of the VM's folder, those that are points by their name */
export async function readPoints<P extends ChainPoint>(
  folder: string,
  entries: readonly Dirent[],
  change: Change | null,
  read: ReadPoint<P>,
): Promise<PointListing<P>> {
  const found: P[] = [];
  const broken: BrokenPoint[] = [];
  const waiting = entries.values();
  const readSome = async () => {
    for (const entry of waiting) {
      const id = entry.name;
      const path = join(folder, id, MANIFEST_FILE);
      try {
        refuseLink(entry, join(folder, id));
        found.push(await read(path, id));
      } catch (error) {
        broken.push({ id, error: ioError(error, 'reading', path) });
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
export async function readManifest(path: string, id: string): Promise<Manifest> {
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

function refuseLink(entry: Dirent, path: string): void {
  if (entry.isDirectory()) return;
  throw new QmpvaultError('link-refused', `${path} is no folder: what it leads to is not looked at`, {
    details: { path },
  });
}
