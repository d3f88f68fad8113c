/** Images with contents that no one can compress or skip. */
import { randomFillSync } from 'node:crypto';
import { open, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { MiB } from '../../src/base/units.ts';

/** Makes `<dir>/<disk>.qcow2` with random bytes in its first `dataBytes`. */
export async function imageWithData(
  { bin, dir, disk }: { bin: string; dir: string; disk: string },
  { diskBytes, dataBytes }: { diskBytes: number; dataBytes: number },
): Promise<string> {
  const raw = join(dir, 'data.raw');
  const image = join(dir, `${disk}.qcow2`);
  const piece = Buffer.alloc(MiB);
  const file = await open(raw, 'wx');
  for (let offset = 0; offset < dataBytes; offset += piece.length) {
    await file.write(randomFillSync(piece), 0, piece.length, offset);
  }
  await file.truncate(diskBytes);
  await file.close();
  await execa(join(bin, 'qemu-img'), ['convert', '-f', 'raw', '-O', 'qcow2', raw, image]);
  await rm(raw);
  return image;
}
