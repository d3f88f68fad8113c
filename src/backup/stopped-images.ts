/**
 * The images of a stopped VM during a run. They are read without a lock, so that the VM may start at any time; the
 * new bitmaps prove whether somebody wrote meanwhile:
 *
 *  1. `track` adds an empty bitmap to each image, in an opening of milliseconds that fails while a VM has the image;
 *  2. the images are opened again, without a lock, and read;
 *  3. `refuseOvertaken`, all read, looks at the new bitmaps: QEMU marks each as in use before it first writes to an
 *     image, and stores what was written when it ends. Neither in use nor anything in it: nobody has written;
 *  4. `identify` merges the identity patterns in, in a second short opening. Not in the first: a write to one of the
 *     pattern's own clusters would not show then. What is written between 3 and 4 is in the bitmap already.
 *
 * An image that can keep no bitmap is watched by what the host knows of it, and the next run compares all of it.
 */
import { join } from 'node:path';
import { codeOf, QmpvaultError } from '../base/errors.ts';
import type { RunId } from '../base/ids.ts';
import {
  addImageBitmap,
  drawPatternImage,
  mergeImageBitmap,
  refuseInUse,
  writeMark,
} from '../image/image-bitmaps.ts';
import type { QemuTools } from '../image/tools.ts';
import type { Writer } from '../image/writer.ts';
import { GRANULARITY_BYTES, type Pattern } from '../vm/bitmaps.ts';
import type { Disk } from '../vm/disks.ts';
import { closeImages, type DiskImage, openImages, openPattern } from '../vm/image-nodes.ts';
import type { RunDisk } from './site.ts';

interface StoppedImagesOptions {
  readonly tools: QemuTools;
  /** The daemon that reads them. */
  readonly client: Writer['client'];
  readonly run: RunId;
  readonly images: readonly DiskImage[];
  /** Of the run, for the images of patterns. */
  readonly scratch: string;
}

export class StoppedImages {
  readonly #options: StoppedImagesOptions;
  /** By the disk's index. */
  readonly #marks = new Map<number, string>();

  constructor(options: StoppedImagesOptions) {
    this.#options = options;
  }

  /** Opens all of them without a lock, as they are now. */
  open(): Promise<Disk[]> {
    const { client, run, images } = this.#options;
    return openImages(client, run, images);
  }

  close(): Promise<void> {
    const { client, run } = this.#options;
    return closeImages(client, run);
  }

  /** Makes a pattern's node, for the check of an identity. */
  async openPattern({ node, sizeBytes, clusters }: Pattern): Promise<void> {
    const path = join(this.#options.scratch, `${node}.qcow2`);
    await this.#drawPattern(path, sizeBytes, clusters);
    await openPattern(this.#options.client, node, path);
  }

  /** Draws the patterns of the new bitmaps, for `identify`. */
  async prepare(disks: readonly RunDisk[]): Promise<void> {
    for (const { index, disk, bitmap } of disks) {
      if (disk.keepsBitmaps) await this.#drawPattern(this.#patternOf(index), disk.sizeBytes, bitmap.pattern);
    }
  }

  /** From here on no write goes unseen. @throws vm-busy when a VM has one of them */
  async track(disks: readonly RunDisk[]): Promise<void> {
    const { tools } = this.#options;
    for (const { index, disk, bitmap } of disks) {
      const path = disk.image;
      if (disk.keepsBitmaps) {
        await addImageBitmap(tools, { path, name: bitmap.name, granularityBytes: GRANULARITY_BYTES });
      } else {
        await refuseInUse(tools, { path, format: disk.format });
        this.#marks.set(index, await writeMark(path));
      }
    }
  }

  /**
   * Opens them for reading, and sees that they are still what was planned for: a VM may have started and ended since.
   * @throws run-overtaken
   */
  async reopen(disks: readonly RunDisk[]): Promise<void> {
    const found = await this.open();
    for (const { index, disk, plan } of disks) {
      const now = found[index];
      const parent = plan.how === 'tracked' && now?.bitmaps.find(({ name }) => name === plan.bitmap);
      const isAsPlanned =
        now?.sizeBytes === disk.sizeBytes && (plan.how !== 'tracked' || (parent && !parent.inconsistent));
      if (!isAsPlanned) throw overtaken(disk);
    }
  }

  /** @throws run-overtaken when somebody wrote, or may have written, since `track` */
  async refuseOvertaken(disks: readonly RunDisk[]): Promise<void> {
    const found = await this.open();
    for (const { index, disk, bitmap } of disks) {
      const now = found[index];
      const tracked = now?.bitmaps.find(({ name }) => name === bitmap.name);
      const isUntouched = disk.keepsBitmaps
        ? tracked?.inconsistent === false && tracked.countBytes === 0
        : (await writeMark(disk.image)) === this.#marks.get(index);
      if (!isUntouched || now?.sizeBytes !== disk.sizeBytes) throw overtaken(disk);
    }
    await this.close();
  }

  /** @throws run-overtaken when a VM that has written nothing yet has one of them */
  async identify(disks: readonly RunDisk[]): Promise<void> {
    for (const { index, disk, bitmap } of disks) {
      if (!disk.keepsBitmaps) continue;
      const from = { path: this.#patternOf(index), name: PATTERN };
      try {
        await mergeImageBitmap(this.#options.tools, { path: disk.image, name: bitmap.name, from });
      } catch (error) {
        throw codeOf(error) === 'vm-busy' ? overtaken(disk, error) : error;
      }
    }
  }

  #patternOf(index: number): string {
    return join(this.#options.scratch, `pattern-${index}.qcow2`);
  }

  #drawPattern(path: string, sizeBytes: number, pattern: readonly number[]): Promise<void> {
    const granularityBytes = GRANULARITY_BYTES;
    return drawPatternImage(this.#options.tools, {
      path,
      name: PATTERN,
      sizeBytes,
      granularityBytes,
      pattern,
    });
  }
}

/** The name that vm/bitmaps.ts looks for. */
const PATTERN = 'pattern';

function overtaken({ name, image }: Disk, cause?: unknown): QmpvaultError {
  return new QmpvaultError(
    'run-overtaken',
    `the VM was started during the backup of its images: ${image}, disk ${name}, was opened or written to. Nothing is lost; back up again`,
    { details: { disk: name, image }, cause },
  );
}
