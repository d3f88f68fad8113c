/** The images of a stopped VM as the place where runs leave their things: nothing but bitmaps. */
import { stat } from 'node:fs/promises';
import { removeImageBitmap } from '../image/image-bitmaps.ts';
import { formatOf } from '../image/image-format.ts';
import { readQcow2Header } from '../image/qcow2-header.ts';
import { imageInfo } from '../image/qemu-img.ts';
import type { QemuTools } from '../image/tools.ts';
import type { RunPlace } from './release.ts';

const LOOK_MS = 30_000;

/** @param images one that is gone has taken its bitmaps with it */
export function imagePlace(tools: QemuTools, images: Iterable<string>): RunPlace {
  return {
    // Jobs, nodes and exports ended with the VM, or with the run's own daemon.
    takeOut: async () => [],
    async removeBitmaps(isWanted) {
      for (const path of new Set(images)) {
        const found = await stat(path).catch(() => null);
        if (found === null || (await formatOf(path)) !== 'qcow2') continue;
        // A guest may have written this header onto its raw disk: no other file is opened because of it.
        if ((await readQcow2Header(path)).externalData) continue;
        const { bitmaps } = await imageInfo(tools, { path, format: 'qcow2' }, { timeoutMs: LOOK_MS });
        for (const { name } of bitmaps) if (isWanted(name)) await removeImageBitmap(tools, { path, name });
      }
    },
  };
}
