/**
 * A restore point in the making: a hidden folder that becomes a point by one rename, or never.
 *
 * We hold a descriptor of our own on every file from its creation on: Linux reports a failed write-back to the
 * descriptors that were open when it happened, and QEMU only prints it. A failed fsync is final.
 */
import { constants } from 'node:fs';
import * as fs from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { z } from 'zod';
import { QmpvaultError } from '../base/errors.ts';
import type { PointId } from '../base/ids.ts';
import { removeDurably, renameOnce, syncFile, syncFolder, writeFileDurably } from './durable.ts';
import { ioError, isErrno, unlessMissing } from './io-error.ts';
import { diskFileName, MANIFEST_FILE, RUN_FILE, STAGING_PREFIX } from './layout.ts';
import type { Lease } from './lease.ts';
import { formatManifest, type Manifest } from './manifest.ts';
import { readText } from './read-text.ts';

const runSchema = z.object({ run: z.string() });

type State = 'open' | 'failed' | 'published' | 'discarded';

export class Staging {
  readonly id: PointId;
  readonly path: string;
  readonly #finalPath: string;
  readonly #held = new Map<string, fs.FileHandle>();
  #state: State = 'open';

  private constructor(folder: string, id: PointId) {
    this.id = id;
    this.path = join(folder, STAGING_PREFIX + id);
    this.#finalPath = join(folder, id);
  }

  /** @throws point-exists, lease-lost, vault-full, vault-unreadable */
  static async create(folder: string, id: PointId, lease: Lease, run: string | null): Promise<Staging> {
    await lease.assertHeld();
    const staging = new Staging(folder, id);
    await refuseExisting(staging.#finalPath);
    await fs.mkdir(staging.path).catch((error: unknown) => {
      throw isErrno(error, 'EEXIST') ? existing(staging.path) : ioError(error, 'making', staging.path);
    });
    if (run !== null) await writeFileDurably(join(staging.path, RUN_FILE), `${JSON.stringify({ run })}\n`);
    return staging;
  }

  /**
   * One whose run's engine died, with our own descriptor on each of its files: a write-back that failed while nobody
   * held one is reported to the next that is opened, unless somebody heard of it (errseq_sample, Linux 4.16).
   * @throws vault-unreadable, image-invalid when it is not that run's any more
   */
  static async rejoin(folder: string, id: PointId, lease: Lease, run: string, files: readonly string[]) {
    await lease.assertHeld();
    const staging = new Staging(folder, id);
    if ((await readRunId(staging.path)) !== run) {
      throw new QmpvaultError('image-invalid', `${staging.path} is not what run ${run} left`);
    }
    try {
      // Anybody may have put something else in its place meanwhile.
      for (const file of files) await staging.#open(file, constants.O_RDWR | constants.O_NOFOLLOW);
      return staging;
    } catch (error) {
      await staging.#closeAll().catch(() => {});
      throw error;
    }
  }

  get isPublished(): boolean {
    return this.#state === 'published';
  }

  /** Where a disk's file is to be made. @throws name-invalid */
  diskPath(file: string): string {
    return join(this.path, diskFileName(file));
  }

  /** Opens our own descriptor; call it right after the file was made. @throws vault-unreadable */
  async hold(file: string): Promise<void> {
    this.#assertOpen();
    // Writable, though we never write: CIFS flushes through a writable handle only.
    if (!this.#held.has(file)) await this.#open(file, constants.O_RDWR);
  }

  async #open(file: string, flags: number): Promise<void> {
    const path = this.diskPath(file);
    const handle = await fs.open(path, flags).catch((error: unknown) => {
      throw ioError(error, 'opening', path);
    });
    this.#held.set(file, handle);
  }

  /** A text that is to lie beside the images. @throws name-invalid, vault-full, vault-unreadable, sync-failed */
  async write(file: string, text: string): Promise<void> {
    this.#assertOpen();
    if (this.#held.has(file)) throw existing(this.diskPath(file));
    await writeFileDurably(this.diskPath(file), text);
  }

  /** All bytes of all held files are on the NAS. After a failure this staging is never published. @throws sync-failed, vault-full */
  async sync(): Promise<void> {
    this.#assertOpen();
    try {
      for (const [file, handle] of this.#held) await syncFile(handle, this.diskPath(file));
    } catch (error) {
      this.#state = 'failed';
      throw error;
    }
  }

  /**
   * Makes it a restore point; the rename is the commit. An error after it leaves `isPublished` true: the point is
   * there, and whether it would survive a power cut of the NAS is not known.
   * @throws sync-failed, point-exists, lease-lost, manifest-invalid, vault-full, vault-unreadable
   */
  async publish(manifest: Manifest, lease: Lease): Promise<void> {
    this.#assertOpen();
    const manifestPath = join(this.path, MANIFEST_FILE);
    const text = formatManifest(manifest, manifestPath);
    this.#assertComplete(manifest);
    await this.sync();
    await fs.rm(join(this.path, RUN_FILE), { force: true });
    await writeFileDurably(manifestPath, text);
    // SMB refuses to rename a folder with open files.
    await this.#closeAll();
    await refuseExisting(this.#finalPath);
    await lease.assertHeld();
    await this.#commit(text);
  }

  /** Idempotent; does nothing to a published point. @throws vault-unreadable */
  async discard(): Promise<void> {
    if (this.#state === 'published' || this.#state === 'discarded') return;
    this.#state = 'discarded';
    await this.#closeAll().catch(() => {});
    await removeDurably(this.path);
  }

  async #commit(text: string): Promise<void> {
    const isOurs = async () => (await fs.readFile(join(this.#finalPath, MANIFEST_FILE), 'utf8')) === text;
    try {
      await renameOnce(this.path, this.#finalPath, isOurs);
    } catch (error) {
      if (isErrno(error, 'ENOTEMPTY', 'EEXIST', 'ENOTDIR')) throw existing(this.#finalPath);
      throw error;
    }
    this.#state = 'published';
    await syncFolder(dirname(this.#finalPath));
  }

  /** A close can be the last to report a lost write, on NFS and on CIFS. */
  async #closeAll(): Promise<void> {
    const handles = [...this.#held];
    this.#held.clear();
    const results = await Promise.allSettled(handles.map(([, handle]) => handle.close()));
    for (const [i, result] of results.entries()) {
      if (result.status === 'fulfilled') continue;
      this.#state = 'failed';
      throw ioError(result.reason, 'closing', this.diskPath(handles[i]?.[0] ?? ''));
    }
  }

  #assertComplete(manifest: Manifest): void {
    const missing = manifest.disks.find((disk) => !this.#held.has(disk.file));
    if (manifest.id === this.id && missing === undefined) return;
    throw new QmpvaultError(
      'internal',
      missing === undefined
        ? `the manifest of ${manifest.id} was given to the staging of ${this.id}`
        : `the file ${missing.file} of point ${this.id} was never held`,
    );
  }

  #assertOpen(): void {
    if (this.#state === 'open') return;
    throw new QmpvaultError('internal', `the staging of point ${this.id} is ${this.#state}, not open`);
  }
}

/** Not a race with other changers, which the lease keeps out: with earlier ones, and with a caller's own names. */
async function refuseExisting(path: string): Promise<void> {
  if ((await unlessMissing(fs.lstat(path), 'looking for', path)) !== undefined) throw existing(path);
}

function existing(path: string): QmpvaultError {
  return new QmpvaultError('point-exists', `${path} exists: give the new point another id`, {
    details: { path },
  });
}

/** A staging folder that some earlier run left. */
export interface LeftoverStaging {
  readonly id: PointId;
  readonly path: string;
  /** The run that filled it, when it got that far. */
  readonly runId?: string;
  remove(): Promise<void>;
}

export async function leftoversAmong(
  folder: string,
  entries: readonly { readonly name: string }[],
  lease: Lease,
): Promise<LeftoverStaging[]> {
  const names = entries.map(({ name }) => name).filter((name) => name.startsWith(STAGING_PREFIX));
  return Promise.all(
    names.map(async (name) => {
      const path = join(folder, name);
      const runId = await readRunId(path);
      const remove = async () => {
        await lease.assertHeld();
        await removeDurably(path);
      };
      const id = name.slice(STAGING_PREFIX.length) as PointId;
      return runId === null ? { id, path, remove } : { id, path, runId, remove };
    }),
  );
}

async function readRunId(staging: string): Promise<string | null> {
  try {
    return runSchema.parse(JSON.parse((await readText(join(staging, RUN_FILE))) ?? '')).run;
  } catch {
    return null;
  }
}
