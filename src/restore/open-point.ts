/** A restore point while it is read: registered in the vault, and every image that QEMU will open looked at before. */
import { bounded } from '../base/deadline.ts';
import { QmpvaultError } from '../base/errors.ts';
import type { VmName } from '../base/ids.ts';
import type { Manifest } from '../vault/manifest.ts';
import type { PointListing } from '../vault/points.ts';
import type { Reader } from '../vault/readers.ts';
import type { Vault } from '../vault/vault.ts';
import type { VmFolder } from '../vault/vm-folder.ts';
import { checkChain, realFolder } from './chain-check.ts';
import { type DiskChain, selectPoint } from './restore-plan.ts';

/** How long a change of the VM's points that is under way is waited for. */
const CHANGE_MS = 30_000;
/** How long a NAS that hangs may keep a command from its end. */
const CLOSE_MS = 5_000;

export interface PointWish {
  readonly vm: VmName;
  /** An id, a unique beginning of one, or `latest`. */
  readonly point: string;
}

export class OpenPoint {
  readonly vm: VmFolder;
  readonly listing: PointListing;
  readonly point: Manifest;
  readonly reader: Reader;
  /** The VM's folder without symbolic links. */
  readonly #folder: string;
  readonly #wish: PointWish;

  private constructor(
    vm: VmFolder,
    folder: string,
    listing: PointListing,
    point: Manifest,
    reader: Reader,
    wish: PointWish,
  ) {
    this.vm = vm;
    this.#folder = folder;
    this.listing = listing;
    this.point = point;
    this.reader = reader;
    this.#wish = wish;
  }

  /**
   * @param options.what who reads, for whoever wants to change the points meanwhile
   * @throws vm-unknown, point-unknown, usage, link-refused, manifest-invalid, vault-locked, vault-unreadable, cancelled
   */
  static async open(
    vault: Vault,
    wish: PointWish,
    { what, signal }: { what: string; signal?: AbortSignal | undefined },
  ): Promise<OpenPoint> {
    const vm = vault.vm(wish.vm);
    if (!(await vm.exists())) {
      throw new QmpvaultError('vm-unknown', `the vault ${vault.path} has no VM ${vm.name}`, {
        details: { vault: vault.path, vm: vm.name },
      });
    }
    const folder = await realFolder(vm);
    const reader = await vm.registerReader({ what, waitMs: CHANGE_MS, signal });
    try {
      const listing = await vm.points();
      return new OpenPoint(vm, folder, listing, selectPoint(listing, wish.point), reader, wish);
    } catch (error) {
      await reader.close().catch(() => {});
      throw error;
    }
  }

  /** All chains of a command are checked before the first image is opened. @returns with the image to give to QEMU */
  async check<D extends DiskChain>(disks: readonly D[]): Promise<(D & { readonly source: string })[]> {
    const checked: (D & { source: string })[] = [];
    for (const disk of disks) checked.push({ ...disk, source: await checkChain(this.#folder, disk) });
    return checked;
  }

  /** Which point is the latest is uncertain when one cannot be read. */
  get warnings(): string[] {
    if (this.#wish.point !== 'latest') return [];
    return this.listing.broken.map(
      ({ id, error }) => `the point ${id} cannot be read and was passed over: ${error.message}`,
    );
  }

  /** The entry of a reader that cannot be removed lapses by itself. */
  async [Symbol.asyncDispose](): Promise<void> {
    await bounded(this.reader.close(), { timeoutMs: CLOSE_MS, what: 'the NAS' }).catch(() => {});
  }
}
