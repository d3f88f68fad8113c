/**
 * One VM in the vault. Reading needs nothing but the folder; whatever changes it takes the VM's lease and asks it
 * just before.
 */
import * as fs from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { QmpvaultError } from '../base/errors.ts';
import { type DiskName, type PointId, pointId, type VmName } from '../base/ids.ts';
import type { ChainPoint } from './chain.ts';
import { type Change, parseChange } from './change.ts';
import { removeDurably, sweepTemporaries, syncFolder, writeFileDurably } from './durable.ts';
import { addHold, type Hold, heldPoints, readHolds, refuseHeld, releaseHold } from './holds.ts';
import { ioError, unlessMissing } from './io-error.ts';
import {
  BOOT_LOG_FILE,
  BOOT_SCREEN_FILE,
  diskFileName,
  HOLDS_FOLDER,
  isCandidate,
  JOURNAL_FILE,
  MANIFEST_FILE,
  READERS_FOLDER,
  VERIFIED_FILE,
  VM_FILE,
} from './layout.ts';
import { acquireLease, isJournalOpen, type Lease, type LeaseOptions, leaseHolder } from './lease.ts';
import { formatManifest, type Manifest } from './manifest.ts';
import { type BrokenPoint, type PointListing, type ReadPoint, readManifest, readPoints } from './points.ts';
import { readText } from './read-text.ts';
import { type Reader, registerReader, sweepReaders, type WaitOptions, waitForReaders } from './readers.ts';
import { finishRemovals, isRetired, removePoint } from './removal.ts';
import { type LeftoverStaging, leftoversAmong, Staging } from './staging.ts';
import { type BootEvidence, parseVerification, type Verification } from './verification.ts';
import { parseVmRecord, type VmRecord } from './vm-record.ts';

/** What a VM's folder needs to know of the vault it lies in. */
export interface Home {
  readonly path: string;
  /** @throws vault-away when the vault is no longer there */
  assertPresent(): Promise<void>;
  readonly finishChange: FinishChange;
}

/**
 * Finishes or undoes the change that a dead process left open. What it takes is no business of the vault's: it is
 * given by whoever opens the vault. @throws when that could not be done
 */
export type FinishChange = (vm: VmFolder, lease: Lease, signal: AbortSignal | undefined) => Promise<void>;

const OWN_FOLDERS = new Set([READERS_FOLDER, HOLDS_FOLDER]);
const NO_CHANGE = { change: null, unreadable: [] };

export class VmFolder {
  readonly name: VmName;
  readonly path: string;
  readonly #vault: Home;

  constructor(vault: Home, name: VmName) {
    this.name = name;
    this.path = join(vault.path, name);
    this.#vault = vault;
  }

  /** Whether the vault knows this VM. @throws vault-away, vault-unreadable */
  async exists(): Promise<boolean> {
    return (await this.#list()) !== null;
  }

  /** null when no backup of this VM got so far. @throws manifest-invalid, vault-format, vault-unreadable */
  async readRecord(): Promise<VmRecord | null> {
    const path = join(this.path, VM_FILE);
    const text = await readText(path);
    return text === undefined ? null : parseVmRecord(text, path);
  }

  /** @throws lease-lost, vault-full, vault-unreadable, sync-failed */
  async writeRecord(record: VmRecord, lease: Lease): Promise<void> {
    const path = join(this.path, VM_FILE);
    const text = `${JSON.stringify(record, null, 2)}\n`;
    parseVmRecord(text, path);
    await this.#write(path, text, lease);
  }

  /**
   * All published points. One that cannot be read is listed apart: it exists, and others may need it. No points
   * means that there are none: a vault that went away is an error.
   * @throws vault-away, vault-unreadable
   */
  points(): Promise<PointListing> {
    return this.pointsBy(readManifest);
  }

  /** The same, where somebody wants less of each than its manifest. @throws vault-away, vault-unreadable */
  async pointsBy<P extends ChainPoint>(read: ReadPoint<P>): Promise<PointListing<P>> {
    const entries = (await this.#list()) ?? [];
    const candidates = entries.filter(
      (entry) => !entry.isFile() && isCandidate(entry.name) && !OWN_FOLDERS.has(entry.name),
    );
    if (candidates.length === 0) await this.#vault.assertPresent();
    const isChanging = entries.some(({ name }) => name === JOURNAL_FILE);
    const { change, unreadable } = isChanging ? await this.#tryReadChange() : NO_CHANGE;
    const listing = await readPoints(this.path, candidates, change, read);
    return { ...listing, broken: [...listing.broken, ...unreadable] };
  }

  /**
   * Where a point's disk lies. Like a backing link, a symbolic link could lead anywhere, so none is followed.
   * @throws link-refused; image-invalid when it is missing; name-invalid, vault-unreadable
   */
  async diskPath(point: PointId, file: string): Promise<string> {
    const folder = join(this.path, pointId(point));
    const path = join(folder, diskFileName(file));
    const [inFolder, inFile] = await Promise.all(
      [folder, path].map((path) => unlessMissing(fs.lstat(path), 'looking for', path)),
    );
    if (inFolder === undefined || inFile === undefined) {
      throw new QmpvaultError(
        'image-invalid',
        `${path} is missing: restore another point, and verify the vault`,
        {
          details: { path, point },
        },
      );
    }
    if (inFolder.isDirectory() && inFile.isFile()) return path;
    throw new QmpvaultError(
      'link-refused',
      `${path} is not a plain file in a plain folder: it is not opened`,
      {
        details: { path, point },
      },
    );
  }

  /**
   * Makes the VM's folder when it is missing, clears away what killed processes left in it, but for staging folders,
   * and finishes the change that one left open.
   * @param options.leaveChange the caller sees to the open change itself
   * @throws vault-locked, vault-away, vault-full, vault-unreadable, sync-failed, cancelled; what kept the change from
   *   being finished
   */
  async acquireLease(options: LeaseOptions & { readonly leaveChange?: boolean }): Promise<Lease> {
    await this.#vault.assertPresent();
    await this.#make();
    const lease = await acquireLease(this.path, options);
    try {
      await sweepTemporaries(this.path);
      await sweepReaders(this.path);
      await finishRemovals(this.path);
      if (!options.leaveChange && (await isJournalOpen(this.path))) {
        await this.#vault.finishChange(this, lease, options.signal);
      }
      return lease;
    } catch (error) {
      await lease.release().catch(() => {});
      throw error;
    }
  }

  /** Who changes its points now, in words; null: nobody. @throws vault-unreadable */
  async changer(): Promise<string | null> {
    return leaseHolder(this.path);
  }

  /** @throws point-exists, also for the id of a point that was removed; lease-lost, vault-full, vault-unreadable */
  async createStaging(id: PointId, lease: Lease, runId: string | null = null): Promise<Staging> {
    this.#assertOurs(lease);
    pointId(id);
    if (await isRetired(this.path, id)) {
      throw new QmpvaultError(
        'point-exists',
        `a point ${id} existed and was removed: give the new one another id`,
        {
          details: { path: this.path, point: id },
        },
      );
    }
    return Staging.create(this.path, id, lease, runId);
  }

  /** That of a run whose engine died and that is to be finished. @throws image-invalid, lease-lost, vault-unreadable */
  rejoinStaging(id: PointId, lease: Lease, runId: string, files: readonly string[]): Promise<Staging> {
    this.#assertOurs(lease);
    return Staging.rejoin(this.path, pointId(id), lease, runId, files);
  }

  /** Staging folders of other runs. Under the lease no run is filling one; its writer process may still live. */
  async leftoverStaging(lease: Lease): Promise<LeftoverStaging[]> {
    this.#assertOurs(lease);
    await lease.assertHeld();
    const entries = (await this.#list()) ?? [];
    return leftoversAmong(this.path, entries, lease);
  }

  /** Rewrites a published point's manifest: sealed, protected, a digest that is no longer pending. @throws point-unknown, lease-lost, … */
  async replaceManifest(manifest: Manifest, lease: Lease): Promise<void> {
    const folder = join(this.path, pointId(manifest.id));
    const path = join(folder, MANIFEST_FILE);
    const text = formatManifest(manifest, path);
    await this.#assertPoint(folder, manifest.id);
    await this.#write(path, text, lease);
    await sweepTemporaries(folder);
  }

  /** null when the point was never verified, or the record makes no sense. @throws vault-unreadable */
  async readVerification(id: PointId): Promise<Verification | null> {
    const path = join(this.path, pointId(id), VERIFIED_FILE);
    const text = await readText(path);
    try {
      return text === undefined ? null : parseVerification(text, path);
    } catch {
      return null;
    }
  }

  /**
   * @param evidence of the boot that it tells of, if that is a new one
   * @throws point-unknown, lease-lost, vault-full, vault-unreadable, sync-failed
   */
  async writeVerification(
    id: PointId,
    verification: Verification,
    lease: Lease,
    evidence: BootEvidence | null = null,
  ): Promise<void> {
    const folder = join(this.path, pointId(id));
    await this.#assertPoint(folder, id);
    if (evidence !== null) {
      await this.#write(join(folder, BOOT_LOG_FILE), evidence.serialLog, lease);
      const screen = join(folder, BOOT_SCREEN_FILE);
      // An old picture would tell of another boot.
      await (evidence.screen === null ? removeDurably(screen) : this.#write(screen, evidence.screen, lease));
    }
    await this.#write(join(folder, VERIFIED_FILE), `${JSON.stringify(verification, null, 2)}\n`, lease);
  }

  /** For restores and exports. @throws vault-locked while published files are being changed; vault-away, cancelled */
  async registerReader(options: WaitOptions & { readonly what?: string } = {}): Promise<Reader> {
    await this.#vault.assertPresent();
    return registerReader(this.path, { what: 'a reader', ...options });
  }

  /** For a changer of published files, after it wrote its journal. @throws vault-locked, lease-lost, cancelled */
  async waitForReaders(lease: Lease, options: WaitOptions = {}): Promise<void> {
    this.#assertOurs(lease);
    await waitForReaders(lease, options);
  }

  /** What outside of the vault stands on points of this VM, oldest first. @throws manifest-invalid, vault-format, vault-unreadable */
  holds(): Promise<Hold[]> {
    return readHolds(this.path);
  }

  /** For a registered reader: from now on the point stays as it is. @throws vault-full, vault-unreadable, sync-failed */
  addHold(hold: Pick<Hold, 'point' | 'what' | 'disks'>): Promise<Hold> {
    return addHold(this.path, hold);
  }

  /** @param disks that need the point no more; default: all @throws vault-full, vault-unreadable, sync-failed */
  releaseHold(hold: Hold, disks: readonly DiskName[] = hold.disks.map(({ name }) => name)): Promise<void> {
    return releaseHold(this.path, hold, disks);
  }

  /** For a changer of published files, after it waited for readers. @throws point-held, and what reading throws */
  async refuseHeld(going: readonly PointId[]): Promise<void> {
    const holds = await this.holds();
    if (holds.length === 0) return;
    const { points, going: removed } = await this.points();
    refuseHeld(heldPoints([...points, ...removed], holds), going);
  }

  /** The change of published files that is open. @throws manifest-invalid, vault-format, vault-unreadable */
  async readChange(): Promise<Change | null> {
    const path = join(this.path, JOURNAL_FILE);
    const text = await readText(path);
    return text === undefined ? null : parseChange(text, path);
  }

  /** Durable before it returns: then its steps may be done. While it is open the lease never lapses by time alone. */
  async writeChange(change: Change, lease: Lease): Promise<void> {
    const path = join(this.path, JOURNAL_FILE);
    const text = `${JSON.stringify(change, null, 2)}\n`;
    parseChange(text, path);
    await this.#write(path, text, lease);
  }

  /** Idempotent. */
  async closeChange(lease: Lease): Promise<void> {
    this.#assertOurs(lease);
    await lease.assertHeld();
    await removeDurably(join(this.path, JOURNAL_FILE));
  }

  /**
   * Removes a point for good; its id is never used again. That nothing needs it is the caller's to know. Killed in
   * between, the point is either untouched or no longer listed, and whoever takes the lease next does the rest.
   * @throws point-unknown, lease-lost, vault-full, vault-unreadable, sync-failed
   */
  async removePoint(id: PointId, lease: Lease): Promise<void> {
    this.#assertOurs(lease);
    await removePoint(this.path, pointId(id), lease);
  }

  async #assertPoint(folder: string, id: PointId): Promise<void> {
    if ((await unlessMissing(fs.lstat(folder), 'looking for', folder)) !== undefined) return;
    throw new QmpvaultError('point-unknown', `there is no restore point ${id} of ${this.name}`, {
      details: { path: folder, point: id },
    });
  }

  /** null when the folder is missing. A NAS that is away looks empty: then the vault must show that it is there. */
  async #list() {
    const entries = await unlessMissing(fs.readdir(this.path, { withFileTypes: true }), 'listing', this.path);
    if (entries === undefined || entries.length === 0) await this.#vault.assertPresent();
    return entries ?? null;
  }

  /** A journal that cannot be read hides no point, and keeps nobody from restoring one. */
  async #tryReadChange(): Promise<{ change: Change | null; unreadable: BrokenPoint[] }> {
    try {
      return { change: await this.readChange(), unreadable: [] };
    } catch (error) {
      const path = join(this.path, JOURNAL_FILE);
      return { change: null, unreadable: [{ id: JOURNAL_FILE, error: ioError(error, 'reading', path) }] };
    }
  }

  async #make(): Promise<void> {
    try {
      // Not for everybody's eyes: these are the contents of the VM's disks.
      const made = await fs.mkdir(this.path, { recursive: true, mode: 0o750 });
      if (made !== undefined) await syncFolder(dirname(this.path));
    } catch (error) {
      throw ioError(error, 'making', this.path);
    }
  }

  async #write(path: string, contents: string | Buffer, lease: Lease): Promise<void> {
    this.#assertOurs(lease);
    await lease.assertHeld();
    await writeFileDurably(path, contents);
  }

  #assertOurs(lease: Lease): void {
    if (lease.folder === this.path) return;
    throw new QmpvaultError('internal', `the lease of ${lease.folder} is not one of ${this.path}`);
  }
}
