/**
 * Who reads a VM's points. QEMU's own locks stop a merge under a reader on a local disk, but nothing does on an
 * SMB mount with `nobrl`; so readers register, and a changer of published files waits for them.
 *
 * Reader and changer meet like this: a reader registers and then looks for a journal, a changer opens the journal
 * and then looks for readers. Whatever the order, one of them sees the other.
 */
import { randomBytes } from 'node:crypto';
import * as fs from 'node:fs/promises';
import { join } from 'node:path';
import { until } from '../base/deadline.ts';
import { QmpvaultError } from '../base/errors.ts';
import {
  ageOfClaim,
  Claim,
  type ClaimRecord,
  removeClaim,
  seeClaim,
  standingOfClaim,
  TERM_MS,
} from './claim.ts';
import { sweepTemporaries } from './durable.ts';
import { ioError, isErrno, unlessMissing } from './io-error.ts';
import { LEASE_FILE, READERS_FOLDER } from './layout.ts';
import { isJournalOpen, type Lease } from './lease.ts';

const POLL_MS = 500;

export interface WaitOptions {
  /** 0, the default, refuses at once. */
  readonly waitMs?: number;
  readonly signal?: AbortSignal | undefined;
}

export class Reader {
  readonly #claim: Claim | null;

  constructor(claim: Claim | null) {
    this.#claim = claim;
  }

  /** False where the vault cannot be written: it is read all the same, but no changer waits. */
  get isRegistered(): boolean {
    return this.#claim !== null;
  }

  /** After reading: whether what was read stood still all the time. @throws lease-lost, vault-unreadable */
  async assertRegistered(): Promise<void> {
    if (this.#claim === null || (await this.#claim.confirm())) return;
    throw new QmpvaultError(
      'lease-lost',
      'this reader gave no sign of life for so long that the points may have been changed under it: read again',
    );
  }

  /** Idempotent. @throws vault-unreadable */
  async close(): Promise<void> {
    await this.#claim?.release();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/**
 * A full or read-only NAS never stands in the way of a restore: see {@link Reader.isRegistered}.
 * @throws vault-locked while published files are being changed, vault-unreadable, cancelled
 */
export async function registerReader(
  folder: string,
  { what, waitMs = 0, signal }: WaitOptions & { readonly what: string },
): Promise<Reader> {
  return until(
    async () => {
      const reader = new Reader(await tryClaim(folder, what));
      const isClosed = await isBeingChanged(folder).catch(async (error: unknown) => {
        await reader.close().catch(() => {});
        throw error;
      });
      if (!isClosed) return reader;
      // A changer may be waiting for us in turn.
      await reader.close();
      return undefined;
    },
    {
      what: `the change of ${folder} that is under way`,
      timeoutMs: waitMs,
      everyMs: POLL_MS,
      signal,
      code: 'vault-locked',
    },
  );
}

/**
 * For a changer, after it opened its journal: waits until nobody reads. Entries of readers that are proved dead or
 * gave no sign of life for a term are removed, which is how such a reader notices.
 * @throws vault-locked naming the readers, lease-lost, vault-unreadable, cancelled
 */
export async function waitForReaders(lease: Lease, { waitMs = 0, signal }: WaitOptions = {}): Promise<void> {
  await lease.assertHeld();
  const end = performance.now() + waitMs;
  await until(
    async () => {
      const readers = await livingReaders(lease.folder);
      if (readers.length === 0) return true;
      if (performance.now() < end) return undefined;
      throw new QmpvaultError(
        'vault-locked',
        `the points in ${lease.folder} are being read by ${readers.map(describe).join(', ')}: wait for the end and repeat`,
        { details: { path: lease.folder, readers: readers.map(describe) } },
      );
    },
    { what: 'the readers', timeoutMs: waitMs + POLL_MS, everyMs: POLL_MS, signal, code: 'vault-locked' },
  );
}

/** Removes what readers that are gone left. Only for the holder of the lease. */
export async function sweepReaders(folder: string): Promise<void> {
  await livingReaders(folder);
  await sweepTemporaries(join(folder, READERS_FOLDER));
}

async function livingReaders(folder: string): Promise<(ClaimRecord | null)[]> {
  const readers = join(folder, READERS_FOLDER);
  const names = (await unlessMissing(fs.readdir(readers), 'listing', readers)) ?? [];
  const living: (ClaimRecord | null)[] = [];
  for (const name of names.filter((name) => name.endsWith('.json'))) {
    const seen = await seeClaim(join(readers, name));
    if (seen === null) continue;
    const isGone = standingOfClaim(seen) === 'dead' || (await ageOfClaim(seen, readers)) > TERM_MS;
    if (!isGone || !(await removeClaim(seen))) living.push(seen.record);
  }
  return living;
}

async function tryClaim(folder: string, what: string): Promise<Claim | null> {
  const readers = join(folder, READERS_FOLDER);
  try {
    await fs.mkdir(readers).catch((error: unknown) => {
      if (!isErrno(error, 'EEXIST')) throw error;
    });
    return await Claim.create(join(readers, `${randomBytes(8).toString('hex')}.json`), what);
  } catch (error) {
    if (isErrno(error, 'EROFS', 'EACCES', 'EPERM', 'ENOSPC', 'EDQUOT')) return null;
    if (isErrno(error, 'ENOENT')) {
      throw new QmpvaultError('vm-unknown', `${folder} is missing: the vault knows no such VM`, {
        details: { path: folder },
      });
    }
    throw ioError(error, 'registering a reader in', readers);
  }
}

/** A journal that a dead process left changes nothing by itself: every point reads the same at each of its steps. */
async function isBeingChanged(folder: string): Promise<boolean> {
  if (!(await isJournalOpen(folder))) return false;
  const lease = await seeClaim(join(folder, LEASE_FILE));
  return lease !== null && standingOfClaim(lease) !== 'dead';
}

function describe(record: ClaimRecord | null): string {
  return record ? `${record.what} (process ${record.owner.pid} on ${record.owner.host})` : 'somebody';
}
