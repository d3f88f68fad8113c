/** What an image is by its first bytes. */
import { constants } from 'node:fs';
import { open } from 'node:fs/promises';

const QCOW2_MAGIC = Buffer.from('QFI\xfb', 'latin1');

/**
 * Of an image of which nothing else is known. A guest could write a qcow2 header into its raw disk, and be read as
 * that; so a raw image is better seen running once.
 */
export async function formatOf(path: string): Promise<'qcow2' | 'raw'> {
  // Not blocking: opening a FIFO in the place of an image would otherwise wait for a writer.
  await using file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
  const { buffer, bytesRead } = await file.read({ buffer: Buffer.alloc(4), position: 0 });
  return bytesRead === 4 && buffer.equals(QCOW2_MAGIC) ? 'qcow2' : 'raw';
}
