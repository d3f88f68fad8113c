/** Whether an image has become the backing file of another one. */
import { open, readdir, realpath } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { parseQcow2Header } from './qcow2-header.ts';

/** Of most images, all of the header and the link. */
const HEADER_BYTES = 64 * 1024;

/**
 * A qcow2 beside an image that stands on it, as a snapshot leaves one; null when none is found. Looked at is the
 * image's own folder only.
 */
export async function overlayOf(image: string): Promise<string | null> {
  const folder = dirname(image);
  const target = await realpath(image);
  for (const entry of await readdir(folder, { withFileTypes: true }).catch(() => [])) {
    const path = join(folder, entry.name);
    if (!entry.isFile()) continue;
    const link = await backingLinkOf(path);
    if (link === null) continue;
    const backing = await realpath(resolve(folder, link)).catch(() => null);
    if (backing === target) return path;
  }
  return null;
}

/** Null also of what is no qcow2, or cannot be read. */
async function backingLinkOf(path: string): Promise<string | null> {
  try {
    await using file = await open(path, 'r');
    const { buffer, bytesRead } = await file.read({ buffer: Buffer.alloc(HEADER_BYTES), position: 0 });
    return parseQcow2Header(buffer.subarray(0, bytesRead)).backingLink;
  } catch {
    return null;
  }
}
