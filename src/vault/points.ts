/** Listing a VM's points: bounded in memory and in open files, and never hiding a point that cannot be read. */
import * as fs from 'node:fs/promises';
import { join } from 'node:path';
import { QmpvaultError } from '../base/errors.ts';
import { inOrder } from './chain.ts';
import { ioError, isErrno } from './io-error.ts';
import { isCandidate, MANIFEST_FILE } from './layout.ts';
import { MANIFEST_MAX_BYTES, type Manifest, parseManifest } from './manifest.ts';

/** More do not help: Node has four threads for files unless UV_THREADPOOL_SIZE says otherwise. */
const AT_ONCE = 16;
const FIRST_READ_BYTES = 8 * 1024;

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
}

/** @param names folders in the VM's folder */
export async function readPoints(folder: string, names: readonly string[]): Promise<PointListing> {
  const points: Manifest[] = [];
  const broken: BrokenPoint[] = [];
  const waiting = names.filter(isCandidate).values();
  const readSome = async () => {
    for (const id of waiting) {
      try {
        points.push(await readManifest(folder, id));
      } catch (error) {
        broken.push({ id, error: ioError(error, 'reading', join(folder, id, MANIFEST_FILE)) });
      }
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, readSome));
  return { points: inOrder(points), broken: broken.toSorted((a, b) => (a.id < b.id ? -1 : 1)) };
}

/** @throws manifest-invalid, also when it is missing; vault-format, vault-unreadable */
export async function readManifest(folder: string, id: string): Promise<Manifest> {
  const path = join(folder, id, MANIFEST_FILE);
  const manifest = parseManifest(await readBounded(path), path);
  if (manifest.id === id) return manifest;
  throw new QmpvaultError('manifest-invalid', `${path} is the manifest of another point, ${manifest.id}`, {
    details: { path, id: manifest.id },
  });
}

async function readBounded(path: string): Promise<string> {
  try {
    await using handle = await fs.open(path, 'r');
    let buffer = Buffer.allocUnsafe(FIRST_READ_BYTES);
    let length = 0;
    for (;;) {
      const { bytesRead } = await handle.read(buffer, length, buffer.length - length);
      length += bytesRead;
      if (length < buffer.length) return buffer.toString('utf8', 0, length);
      if (length > MANIFEST_MAX_BYTES) break;
      buffer = Buffer.concat([buffer], 2 * buffer.length);
    }
  } catch (error) {
    if (!isErrno(error, 'ENOENT', 'ENOTDIR')) throw ioError(error, 'reading', path);
    throw new QmpvaultError('manifest-invalid', `${path} is missing`, { details: { path }, cause: error });
  }
  throw new QmpvaultError('manifest-invalid', `${path} has more than ${MANIFEST_MAX_BYTES} bytes`, {
    details: { path },
  });
}
