import * as fs from 'node:fs/promises';
import { join } from 'node:path';
import { unlessMissing } from '../vault/io-error.ts';
import type { Manifest } from '../vault/manifest.ts';
import type { VmFolder } from '../vault/vm-folder.ts';
import type { LayerBytes } from './delete-plan.ts';

/** What each file of these points really takes. Where the NAS does not say, its length. @throws vault-unreadable */
export async function layerBytes(folder: VmFolder, points: readonly Manifest[]): Promise<LayerBytes> {
  const bytes = new Map<string, number>();
  for (const { id, disks } of points) {
    for (const { file } of disks) {
      const path = join(folder.path, id, file);
      const found = await unlessMissing(fs.lstat(path), 'looking for', path);
      bytes.set(`${id}/${file}`, found === undefined ? 0 : found.blocks * 512 || found.size);
    }
  }
  return (point, file) => bytes.get(`${point}/${file}`) ?? 0;
}
