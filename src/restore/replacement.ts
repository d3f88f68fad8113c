/**
 * Putting restored images in the place of those of a stopped VM: all of them, or none. Under each name lies the old
 * image or the new one, whole, at every instant; a journal on this host says what is under way, so that whoever comes
 * after a dead engine removes what was not complete yet, or does the rest.
 *
 * Each old image gets a second name first, then the new one takes its name. QEMU's own locks are held on all old ones
 * until the last has gone: a VM that starts in between finds one that is locked, and never a mixture.
 */
import { randomBytes } from 'node:crypto';
import * as fs from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { z } from 'zod';
import { codeOf, errnoOf, QmpvaultError } from '../base/errors.ts';
import type { PointId, VmName } from '../base/ids.ts';
import type { ReachStep } from '../base/steps.ts';
import { lockImage } from '../image/image-lock.ts';
import { describe, isAlive } from '../image/process-id.ts';
import type { QemuTools } from '../image/tools.ts';
import { syncFolder, writeFileDurably } from '../vault/durable.ts';
import type { Vault } from '../vault/vault.ts';
import type { TargetSite } from './target.ts';

/** What this needs on this host. */
export interface ReplacementEngine {
  readonly tools: QemuTools;
  /** For the journal. */
  readonly stateDir: string;
  readonly reachStep: ReachStep;
}

const journalSchema = z.object({
  format: z.literal(1),
  owner: z.object({ pid: z.number(), startTime: z.number(), bootId: z.string() }),
  vault: z.string(),
  vm: z.string(),
  point: z.string(),
  /** `making`: the new images are not complete. `switching`: they are, and take their places. */
  stage: z.enum(['making', 'switching']),
  keepOld: z.boolean(),
  images: z.array(
    z.object({
      image: z.string(),
      /** The new one, until it has its name. */
      part: z.string(),
      /** The second name of the old one; null where there was none. */
      old: z.string().nullable(),
      /** When they were about to change places: what tells whether somebody wrote to the old one since, or the new one. */
      oldMark: z.string().nullable(),
      newMark: z.string().nullable(),
    }),
  ),
});
type Journal = z.output<typeof journalSchema>;

interface What {
  readonly vault: Vault;
  readonly vm: VmName;
  readonly point: PointId;
  readonly keepOld: boolean;
}

export class Replacement {
  readonly #engine: ReplacementEngine;
  readonly #path: string;
  #journal: Journal;

  private constructor(engine: ReplacementEngine, path: string, journal: Journal) {
    this.#engine = engine;
    this.#path = path;
    this.#journal = journal;
  }

  /** Durable before a new image is begun. @throws restore-failed, sync-failed, … */
  static async begin(
    engine: ReplacementEngine,
    { vault, vm, point, keepOld }: What,
    sites: readonly TargetSite[],
  ): Promise<Replacement> {
    const owner = await describe(process.pid);
    if (owner === null) throw new QmpvaultError('internal', 'this process does not find itself in /proc');
    const journal: Journal = {
      format: 1,
      owner,
      vault: vault.id,
      vm,
      point,
      stage: 'making',
      keepOld,
      images: sites.map(({ realPath: image, partPath: part, replaces }) => ({
        image,
        part,
        old: replaces === null ? null : oldName(image, point, keepOld),
        oldMark: null,
        newMark: null,
      })),
    };
    const replacement = new Replacement(engine, journalPath(engine, vault, vm), journal);
    await engine.reachStep('place-journal');
    await fs.mkdir(dirname(replacement.#path), { recursive: true, mode: 0o711 });
    await replacement.#write();
    return replacement;
  }

  /** @returns where the old images are kept @throws vm-busy, target-unfit: all is as before then */
  async switchAll(): Promise<string[]> {
    await this.#engine.reachStep('place-switch');
    const images: Journal['images'] = [];
    for (const one of this.#journal.images) {
      images.push({ ...one, oldMark: await markOf(one.image), newMark: await markOf(one.part) });
    }
    this.#journal = { ...this.#journal, stage: 'switching', images };
    await this.#write();
    try {
      await this.#place();
    } catch (error) {
      await this.#putBack();
      throw error;
    }
    return this.#close();
  }

  /** The new images did not come to be. Does nothing once they take their places. */
  async abandon(): Promise<void> {
    if (this.#journal.stage === 'making') await this.#forget();
  }

  /**
   * What a dead engine left. Where the VM ran since then, its disks are left as they are: nobody waits for this restore
   * any more.
   * @returns warnings @throws vm-busy; vault-locked while one that lives is at work
   */
  static async finish(engine: ReplacementEngine, vault: Vault, vm: VmName): Promise<string[]> {
    const path = journalPath(engine, vault, vm);
    const journal = await readJournal(path);
    if (journal === null) return [];
    if (await isAlive(journal.owner)) {
      const details = { pid: journal.owner.pid };
      throw new QmpvaultError('vault-locked', `another restore of ${vm} in place is at work`, { details });
    }
    const replacement = new Replacement(engine, path, journal);
    const interrupted = `a restore of ${vm} in place, to ${journal.point}, was interrupted`;
    if (journal.stage === 'making') {
      await replacement.#giveUp();
      return [`${interrupted} before it changed anything, and was cleared away`];
    }
    const isPlaced = (await replacement.#placed()).length === journal.images.length;
    if (!isPlaced) {
      if (!(await replacement.#isUntouched())) return [`${interrupted}; ${await replacement.#leave()}`];
      await replacement.#place();
    }
    const kept = await replacement.#close();
    const where = kept.length > 0 ? `; what was there before is kept as ${kept.join(', ')}` : '';
    return [`${interrupted}, and is finished now${where}`];
  }

  /** Those that have their new image. */
  async #placed(): Promise<Journal['images']> {
    const placed: Journal['images'] = [];
    for (const one of this.#journal.images) if (!(await exists(one.part))) placed.push(one);
    return placed;
  }

  /** Nobody wrote to the images since they were about to change places. */
  async #isUntouched(): Promise<boolean> {
    for (const { image, oldMark, newMark } of this.#journal.images) {
      const mark = await markOf(image);
      if (mark !== oldMark && mark !== newMark) return false;
    }
    return true;
  }

  /** @returns what became of it, in words */
  async #leave(): Promise<string> {
    const placed = await this.#placed();
    if (placed.length === 0) {
      await this.#giveUp();
      return 'the VM ran since on its old images, so it was given up: repeat it if it is still wanted';
    }
    for (const { part } of this.#journal.images) await fs.rm(part, { force: true });
    await this.#forget();
    const olds = placed.map(({ image, old }) => `${image} (before: ${old ?? 'none'})`).join(', ');
    return `the VM ran since, and of its disks only these are of the point: ${olds}. Repeat the restore, or put those back`;
  }

  /** Nothing has its place yet. */
  async #giveUp(): Promise<void> {
    for (const { part, old } of this.#journal.images) {
      await fs.rm(part, { force: true });
      if (old !== null) await fs.rm(old, { force: true });
    }
    await this.#forget();
  }

  /** Can be repeated. */
  async #place(): Promise<void> {
    const { images } = this.#journal;
    await using locks = new AsyncDisposableStack();
    // What was put in place before a kill is not the old one any more, and is locked too: no VM is to have either.
    for (const { image, old } of images) {
      if (old !== null) locks.use(await lockImage(this.#engine.tools, image));
    }
    await this.#engine.reachStep('place-link');
    for (const { image, part, old } of images) {
      if (old !== null && (await exists(part))) await linkOnce(image, old);
    }
    for (const { image, part } of images) {
      await this.#engine.reachStep('place-rename');
      if (await exists(part)) await fs.rename(part, image);
      await syncFolder(dirname(image));
    }
  }

  /** Nothing took its place for good: each old image gets its name back, and where there was none, there is none. */
  async #putBack(): Promise<void> {
    for (const { image, part, old } of this.#journal.images) {
      if (old === null) {
        if (!(await exists(part))) await fs.rename(image, part);
      } else if (await exists(old)) {
        await fs.rename(old, image);
        // A rename onto another name of the same file does nothing.
        await fs.rm(old, { force: true });
      }
      await syncFolder(dirname(image));
    }
    await this.#forget();
  }

  async #close(): Promise<string[]> {
    await this.#engine.reachStep('place-close');
    const olds = this.#journal.images.flatMap(({ old }) => old ?? []);
    if (!this.#journal.keepOld) for (const old of olds) await fs.rm(old, { force: true });
    await this.#forget();
    return this.#journal.keepOld ? olds : [];
  }

  async #forget(): Promise<void> {
    await fs.rm(this.#path, { force: true });
  }

  async #write(): Promise<void> {
    await writeFileDurably(this.#path, `${JSON.stringify(this.#journal, null, 2)}\n`);
  }
}

function journalPath({ stateDir }: ReplacementEngine, vault: Vault, vm: VmName): string {
  return join(stateDir, 'in-place', `${vault.id.slice(0, 8)}-${vm}.json`);
}

async function readJournal(path: string): Promise<Journal | null> {
  const text = await fs.readFile(path, 'utf8').catch((error: unknown) => {
    if (errnoOf(error) === 'ENOENT') return null;
    throw error;
  });
  return text === null ? null : journalSchema.parse(JSON.parse(text));
}

function oldName(image: string, point: PointId, keep: boolean): string {
  const nonce = randomBytes(2).toString('hex');
  const name = keep
    ? `${basename(image)}.before-${point}-${nonce}`
    : `.qmpvault-${basename(image)}-${nonce}.old`;
  return join(dirname(image), name);
}

/** Changes with every write; not with another name or owner. Null for a file that is not there. */
async function markOf(path: string): Promise<string | null> {
  const found = await fs.stat(path, { bigint: true }).catch(() => null);
  return found === null ? null : `${found.ino} ${found.size} ${found.mtimeNs}`;
}

async function linkOnce(image: string, old: string): Promise<void> {
  try {
    if (!(await exists(old))) await fs.link(image, old);
    await syncFolder(dirname(old));
  } catch (cause) {
    if (codeOf(cause) !== 'internal') throw cause;
    throw new QmpvaultError(
      'target-unfit',
      `${image} cannot be kept under a second name (${errnoOf(cause)}), so nothing was put in its place: restore to another folder`,
      { details: { image }, cause },
    );
  }
}

async function exists(path: string): Promise<boolean> {
  return (await fs.lstat(path).catch(() => null)) !== null;
}
