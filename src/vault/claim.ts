/**
 * A small file on the NAS by which a process says "I am here": the lease of a changer, the entry of a reader.
 *
 * Its text holds a random token and never changes; the token, read by path, is the only proof of ownership. Its
 * age is its mtime against that of a file touched now on the same NAS, so no host's clock counts. A client's
 * utimes would bring the client's clock in; so a claim is kept fresh by writing its own bytes again, which the
 * server stamps. The write goes through the descriptor that the token was read from: a process that comes back
 * after a long sleep can only ever write into a file that was its own.
 */
import { randomBytes } from 'node:crypto';
import * as fs from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { createFileDurably, syncFile, temporaryBeside } from './durable.ts';
import { ioError, isErrno, unlessMissing } from './io-error.ts';
import { ownerSchema, type Standing, standingOf, thisProcess } from './owner.ts';

/** After this time without a sign of life a claim may lapse. */
export const TERM_MS = 60_000;
const REFRESH_MS = 10_000;

const recordSchema = z.object({
  format: z.literal(1),
  token: z.string(),
  owner: ownerSchema,
  what: z.string(),
  since: z.string(),
});
export type ClaimRecord = z.output<typeof recordSchema>;

/** A claim as somebody else sees it; `record` is null when its text makes no sense (being written, damaged). */
export interface SeenClaim {
  readonly path: string;
  readonly text: string;
  readonly mtimeMs: number;
  readonly record: ClaimRecord | null;
}

/** Tokens this process holds: a claim of ours that a failed release left behind is known to be dead. */
const held = new Set<string>();

export class Claim {
  readonly token: string;
  readonly #path: string;
  readonly #text: string;
  readonly #refreshMs: number;
  #timer: NodeJS.Timeout | undefined;

  private constructor(path: string, token: string, text: string, refreshMs: number) {
    this.#path = path;
    this.token = token;
    this.#text = text;
    this.#refreshMs = refreshMs;
  }

  /** null when the path is claimed already. @throws vault-full, vault-unreadable, sync-failed */
  static async create(path: string, what: string, refreshMs = REFRESH_MS): Promise<Claim | null> {
    const token = randomBytes(16).toString('hex');
    const record: ClaimRecord = {
      format: 1,
      token,
      owner: thisProcess(),
      what,
      since: new Date().toISOString(),
    };
    const text = `${JSON.stringify(record, null, 2)}\n`;
    if (!(await createFileDurably(path, text))) return null;
    held.add(token);
    const claim = new Claim(path, token, text, refreshMs);
    claim.#refreshLater();
    return claim;
  }

  /** Whether it is still ours, and if so, a new sign of life. @throws vault-unreadable when that cannot be told */
  async confirm(): Promise<boolean> {
    try {
      const handle = await unlessMissing(fs.open(this.#path, 'r+'), 'opening', this.#path);
      if (handle === undefined) return false;
      try {
        if ((await handle.readFile('utf8')) !== this.#text) return false;
        // A stamp that fails (a full NAS) lets the claim age, and does not change whose it is.
        await stamp(handle, this.#text, this.#path).catch(() => {});
        return true;
      } finally {
        await handle.close();
      }
    } catch (error) {
      throw ioError(error, 'reading', this.#path);
    }
  }

  /** Idempotent. Somebody else's claim at the same path is left alone. @throws vault-unreadable */
  async release(): Promise<void> {
    clearTimeout(this.#timer);
    if (!held.delete(this.token)) return;
    const seen = await seeClaim(this.#path);
    if (seen?.text === this.#text) await removeClaim(seen, { evenIfFresher: true });
  }

  #refreshLater(): void {
    this.#timer = setTimeout(() => {
      // What this finds out matters to nobody: who is about to change something asks by itself.
      void this.confirm()
        .catch(() => {})
        .finally(() => {
          if (held.has(this.token)) this.#refreshLater();
        });
    }, this.#refreshMs).unref();
  }
}

/** null when there is none. Opens the file, since NFS revalidates cached attributes on open only. @throws vault-unreadable */
export async function seeClaim(path: string): Promise<SeenClaim | null> {
  const handle = await unlessMissing(fs.open(path, 'r'), 'opening', path);
  if (handle === undefined) return null;
  try {
    const { mtimeMs } = await handle.stat();
    const text = await handle.readFile('utf8');
    return { path, text, mtimeMs, record: parseRecord(text) };
  } catch (error) {
    // Removed by its owner on another NFS client while we read.
    if (isErrno(error, 'ESTALE')) return null;
    throw ioError(error, 'reading', path);
  } finally {
    await handle.close();
  }
}

/**
 * Removes exactly the claim that was seen. No filesystem call compares and removes at once, so it is moved aside,
 * looked at, and put back if it is another one, or the same that gave a sign of life in between.
 */
export async function removeClaim(seen: SeenClaim, { evenIfFresher = false } = {}): Promise<boolean> {
  const aside = temporaryBeside(seen.path);
  const moved = await unlessMissing(
    fs.rename(seen.path, aside).then(() => true),
    'removing',
    seen.path,
  );
  if (moved === undefined) return false;
  const taken = await seeClaim(aside);
  const isSame = taken?.text === seen.text && (evenIfFresher || taken.mtimeMs === seen.mtimeMs);
  if (taken !== null && !isSame) await createFileDurably(seen.path, taken.text);
  await fs.rm(aside, { force: true });
  return isSame;
}

/** What is known of the process behind a claim. */
export function standingOfClaim({ record }: SeenClaim): Standing {
  if (record === null) return 'elsewhere';
  const standing = standingOf(record.owner);
  return standing === 'alive' && record.owner.pid === process.pid && !held.has(record.token)
    ? 'dead'
    : standing;
}

/** Milliseconds since the last sign of life, by the NAS's clock. @throws vault-full, vault-unreadable, sync-failed */
export async function ageOfClaim(seen: SeenClaim, folder: string): Promise<number> {
  const probe = temporaryBeside(join(folder, 'probe'));
  try {
    const handle = await fs.open(probe, 'wx');
    try {
      await stamp(handle, 'now\n', probe);
      return (await handle.stat()).mtimeMs - seen.mtimeMs;
    } finally {
      await handle.close();
    }
  } catch (error) {
    throw ioError(error, 'touching', probe);
  } finally {
    await fs.rm(probe, { force: true }).catch(() => {});
  }
}

async function stamp(handle: fs.FileHandle, text: string, path: string): Promise<void> {
  await handle.write(text, 0);
  await syncFile(handle, path);
}

function parseRecord(text: string): ClaimRecord | null {
  try {
    return recordSchema.parse(JSON.parse(text));
  } catch {
    return null;
  }
}
