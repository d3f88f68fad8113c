/** Looking at the points of one VM: each file once, however many points stand on it. Changes nothing. */
import * as fs from 'node:fs/promises';
import { join } from 'node:path';
import { codeOf, type ErrorCode, messageOf, QmpvaultError } from '../base/errors.ts';
import type { DiskName, PointId } from '../base/ids.ts';
import { checkImage, readImage } from '../image/qemu-img.ts';
import type { QemuTools } from '../image/tools.ts';
import type { BootDisk } from '../restore/boot-check.ts';
import { checkChain, realFolder } from '../restore/chain-check.ts';
import { diskChain } from '../restore/restore-plan.ts';
import { ancestors } from '../vault/chain.ts';
import { sha256File } from '../vault/digest.ts';
import type { Manifest, ManifestDisk } from '../vault/manifest.ts';
import type { PointListing } from '../vault/points.ts';
import type { Level } from '../vault/verification.ts';
import type { VmFolder } from '../vault/vm-folder.ts';

/** Damage of one file, or of a manifest. */
export interface Finding {
  readonly point: PointId;
  /** null: of the point itself. */
  readonly disk: DiskName | null;
  readonly what: string;
}

export interface FileReport {
  readonly damage: string | null;
  /** null unless it was read. */
  readonly sha256: string | null;
}

/** What they mean here: the file is not what it was when it was published. Anything else is no verdict. */
const DAMAGE = new Set<ErrorCode>([
  'image-invalid',
  'link-refused',
  'manifest-invalid',
  'image-tool-failed',
  'disk-unknown',
]);

export class Inspection {
  readonly #tools: QemuTools;
  readonly #folder: VmFolder;
  readonly #real: string;
  readonly #listing: PointListing;
  readonly #level: Level;
  readonly #signal: AbortSignal | undefined;
  readonly #onBytes: (bytes: number) => void;
  readonly #files = new Map<string, Promise<FileReport>>();

  private constructor(real: string, options: InspectionOptions) {
    this.#real = real;
    this.#tools = options.tools;
    this.#folder = options.folder;
    this.#listing = options.listing;
    this.#level = options.level;
    this.#signal = options.signal;
    this.#onBytes = options.onBytes ?? (() => {});
  }

  /** @throws link-refused, vault-unreadable */
  static async of(options: InspectionOptions): Promise<Inspection> {
    return new Inspection(await realFolder(options.folder), options);
  }

  /** All that is wrong with what this point needs, nearest first. @throws vault-unreadable, cancelled */
  async look(point: Manifest): Promise<Finding[]> {
    const findings: Finding[] = [];
    for (const disk of point.disks) findings.push(...(await this.#lookAtDisk(point, disk)));
    return findings;
  }

  /** Its images, for QEMU to open, after all that they stand on was looked at. @throws link-refused, image-invalid, … */
  async sources(point: Manifest): Promise<BootDisk[]> {
    const sources: BootDisk[] = [];
    for (const { name } of point.disks) {
      const chain = diskChain(this.#listing, point, name);
      const { virtualSizeBytes } = chain;
      sources.push({ name, source: await checkChain(this.#real, chain), virtualSizeBytes });
    }
    return sources;
  }

  /** Of a file that was looked at. */
  async report(point: PointId, file: string): Promise<FileReport | null> {
    return (await this.#files.get(`${point}/${file}`)) ?? null;
  }

  async #lookAtDisk(point: Manifest, { name, file, virtualSizeBytes }: ManifestDisk): Promise<Finding[]> {
    let line: Manifest[];
    try {
      line = this.#lineOf(point, name);
      // No header is opened by QEMU before all of them were looked at.
      await checkChain(this.#real, diskChain(this.#listing, point, name));
    } catch (error) {
      return [{ ...holderOf(error, point.id), disk: name, what: damageOf(error) }];
    }
    const findings: Finding[] = [];
    for (const holder of line) {
      const disk = holder.disks.find((disk) => disk.name === name);
      const report = disk && (await this.#file(holder.id, disk));
      if (report?.damage) findings.push({ point: holder.id, disk: name, what: report.damage });
    }
    if (findings.length > 0 || this.#level === 'quick') return findings;
    const path = join(this.#folder.path, point.id, file);
    try {
      const image = { path, format: 'qcow2', sizeBytes: virtualSizeBytes };
      let read = 0;
      const onProgress = (fraction: number) => {
        this.#onBytes(fraction * virtualSizeBytes - read);
        read = fraction * virtualSizeBytes;
      };
      await readImage(this.#tools, image, { signal: this.#signal, onProgress });
      return [];
    } catch (error) {
      return [{ point: point.id, disk: name, what: damageOf(error) }];
    }
  }

  /** The points whose files make up this disk. */
  #lineOf(point: Manifest, name: DiskName): Manifest[] {
    const line: Manifest[] = [];
    for (const holder of [point, ...ancestors(this.#listing.points, point.id)]) {
      line.push(holder);
      if (holder.disks.find((disk) => disk.name === name)?.kind === 'full') break;
    }
    return line;
  }

  #file(point: PointId, disk: ManifestDisk): Promise<FileReport> {
    const key = `${point}/${disk.file}`;
    const report = this.#files.get(key) ?? this.#lookAtFile(join(this.#folder.path, key), disk);
    this.#files.set(key, report);
    return report;
  }

  async #lookAtFile(path: string, disk: ManifestDisk): Promise<FileReport> {
    const { size } = await fs.stat(path);
    if (size !== disk.storedBytes) {
      return { damage: `${path} has ${size} bytes, its manifest says ${disk.storedBytes}`, sha256: null };
    }
    try {
      await checkImage(this.#tools, { path }, { signal: this.#signal });
      if (this.#level === 'quick') {
        this.#onBytes(size);
        return { damage: null, sha256: null };
      }
      const sha256 = await sha256File(path, { signal: this.#signal, onBytes: this.#onBytes });
      const isOther = disk.sha256 !== null && disk.sha256 !== sha256;
      return { damage: isOther ? `${path} is not what was stored: its digest is another one` : null, sha256 };
    } catch (error) {
      return { damage: damageOf(error), sha256: null };
    }
  }
}

export interface InspectionOptions {
  readonly tools: QemuTools;
  readonly folder: VmFolder;
  readonly listing: PointListing;
  readonly level: Level;
  readonly signal?: AbortSignal | undefined;
  /** Bytes that were read or checked, of files and of what a guest would read. */
  readonly onBytes?: ((bytes: number) => void) | undefined;
}

/** @throws the error itself when it says nothing about the file */
function damageOf(error: unknown): string {
  if (DAMAGE.has(codeOf(error))) return messageOf(error);
  throw error;
}

/** The point that an error speaks of: its path is `…/<point>/<file>`. */
function holderOf(error: unknown, otherwise: PointId): { point: PointId } {
  const path = error instanceof QmpvaultError ? error.details['path'] : undefined;
  const holder = typeof path === 'string' ? path.split('/').at(-2) : undefined;
  return { point: (holder as PointId | undefined) ?? otherwise };
}
