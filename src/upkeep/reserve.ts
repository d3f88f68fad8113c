/**
 * A little room on the NAS, kept while a merge runs. One that runs out of space takes the last byte, and without any
 * room nothing could be undone, and not even a point be deleted to make some.
 */
import { randomBytes } from 'node:crypto';
import * as fs from 'node:fs/promises';
import { join } from 'node:path';
import { KiB } from '../base/units.ts';
import { temporaryBeside } from '../vault/durable.ts';
import { ioError } from '../vault/io-error.ts';

/** Of a lease, a journal, and the manifests of some children. */
const RESERVE_BYTES = 256 * KiB;

export interface Reserve {
  /** Idempotent. What a killed process reserved is swept by whoever takes the lease next. */
  free(): Promise<void>;
}

/** @throws vault-full, vault-unreadable */
export async function takeReserve(folder: string): Promise<Reserve> {
  const path = temporaryBeside(join(folder, 'reserve'));
  const free = () => fs.rm(path, { force: true });
  try {
    // Not zeroes, which a NAS may store as nothing.
    await fs.writeFile(path, randomBytes(RESERVE_BYTES), { flush: true });
    return { free };
  } catch (error) {
    await free().catch(() => {});
    throw ioError(error, 'reserving room in', folder);
  }
}
