/**
 * One changer per VM. The lease is a claim at a fixed name; it is taken over when its owner is proved dead, or
 * when its term has passed and no journal is open, else only on the operator's word: a hung engine that comes back
 * must not find someone else in its files. Whoever publishes, removes or rewrites asks `assertHeld` just before.
 */
import * as fs from 'node:fs/promises';
import { join } from 'node:path';
import { bounded, until } from '../base/deadline.ts';
import { codeOf, QmpvaultError } from '../base/errors.ts';
import {
  ageOfClaim,
  Claim,
  type ClaimRecord,
  removeClaim,
  type SeenClaim,
  seeClaim,
  standingOfClaim,
  TERM_MS,
} from './claim.ts';
import { unlessMissing } from './io-error.ts';
import { JOURNAL_FILE, LEASE_FILE } from './layout.ts';

const POLL_MS = 500;

export interface LeaseOptions {
  /** What for, for whoever finds the VM locked: `backup run 5f3a0c11`. */
  readonly what: string;
  /** How long to wait for somebody else; 0, the default, refuses at once. */
  readonly waitMs?: number;
  /** The operator's word that the present owner, whatever it seems, will not come back. */
  readonly breakLease?: boolean;
  readonly signal?: AbortSignal | undefined;
  /** For tests: how often to give a sign of life. */
  readonly refreshMs?: number;
}

/** How long a NAS that hangs may keep a command from its end. */
const DISPOSE_MS = 5_000;

export class Lease {
  /** The VM's folder that it is for. */
  readonly folder: string;
  /** Whose lease was taken over; null for one that was free. */
  readonly takenFrom: ClaimRecord | null;
  readonly #claim: Claim;

  constructor(folder: string, claim: Claim, takenFrom: ClaimRecord | null) {
    this.folder = folder;
    this.takenFrom = takenFrom;
    this.#claim = claim;
  }

  get token(): string {
    return this.#claim.token;
  }

  /** Reads the lease on the NAS again, and starts its term anew. @throws lease-lost, vault-unreadable */
  async assertHeld(): Promise<void> {
    if (await this.#claim.confirm()) return;
    throw new QmpvaultError(
      'lease-lost',
      `the lease of ${this.folder} was taken over by somebody else: nothing more is changed there`,
      { details: { path: join(this.folder, LEASE_FILE) } },
    );
  }

  /** Idempotent. @throws vault-unreadable: then this process may take it again, and others when its term has passed */
  release(): Promise<void> {
    return this.#claim.release();
  }

  /** Does not throw: what ended the work is what the caller has to hear. On a NAS that hangs the lease lapses by its term. */
  async [Symbol.asyncDispose](): Promise<void> {
    await bounded(this.release(), { timeoutMs: DISPOSE_MS, what: 'the NAS' }).catch(() => {});
  }
}

/** @throws vault-locked, vault-full, vault-unreadable, sync-failed, cancelled */
export async function acquireLease(folder: string, options: LeaseOptions): Promise<Lease> {
  const { waitMs = 0, signal, breakLease = false } = options;
  const path = join(folder, LEASE_FILE);
  // The operator's word is about the owner there is now, not about who may come next.
  const condemned = breakLease ? (await seeClaim(path))?.text : undefined;
  let holder: SeenClaim | null = null;
  try {
    return await until(
      async () => {
        const seen = await seeClaim(path);
        holder = seen ?? holder;
        if (seen !== null) {
          const isFree = seen.text === condemned || (await isAbandoned(seen, folder));
          if (!isFree || !(await removeClaim(seen))) return undefined;
        }
        const claim = await Claim.create(path, options.what, options.refreshMs);
        return claim === null ? undefined : new Lease(folder, claim, seen?.record ?? null);
      },
      { what: 'the lease', timeoutMs: waitMs, everyMs: POLL_MS, signal, code: 'vault-locked' },
    );
  } catch (error) {
    if (codeOf(error) !== 'vault-locked') throw error;
    throw lockedBy(holder, folder);
  }
}

/** Who changes the points, in words; null: nobody, or nobody who may not be relieved. @throws vault-unreadable */
export async function leaseHolder(folder: string): Promise<string | null> {
  const seen = await seeClaim(join(folder, LEASE_FILE));
  return seen === null || (await isAbandoned(seen, folder)) ? null : (seen.record?.what ?? 'somebody');
}

/** @throws vault-unreadable: not knowing is never taken for an open door */
export async function isJournalOpen(folder: string): Promise<boolean> {
  const path = join(folder, JOURNAL_FILE);
  return (await unlessMissing(fs.lstat(path), 'looking for', path)) !== undefined;
}

async function isAbandoned(seen: SeenClaim, folder: string): Promise<boolean> {
  const standing = standingOfClaim(seen);
  if (standing === 'dead') return true;
  // The age first: it touches the folder, after which an NFS client no longer trusts what it remembers of it, such
  // as that there was no journal.
  if ((await ageOfClaim(seen, folder)) <= TERM_MS) return false;
  return standing === 'rebooted' || !(await isJournalOpen(folder));
}

function lockedBy(seen: SeenClaim | null, folder: string): QmpvaultError {
  const record = seen?.record;
  const who = record
    ? `${record.what} (process ${record.owner.pid} on ${record.owner.host}, since ${record.since})`
    : 'somebody';
  return new QmpvaultError(
    'vault-locked',
    `${folder} is being changed by ${who}: wait for it, or, if it is surely gone, repeat with --break-lease`,
    {
      details: {
        path: join(folder, LEASE_FILE),
        what: record?.what ?? null,
        host: record?.owner.host ?? null,
        pid: record?.owner.pid ?? null,
        since: record?.since ?? null,
      },
    },
  );
}
