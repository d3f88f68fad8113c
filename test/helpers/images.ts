/** Comparing images with the truth of their moment. */
import { createHash } from 'node:crypto';
import { closeSync, createReadStream, openSync, readSync } from 'node:fs';
import { pipeline } from 'node:stream/promises';
import { execa } from 'execa';
import { MiB } from '../../src/base/units.ts';

export async function sha256(file: string): Promise<string> {
  const hash = createHash('sha256');
  await pipeline(createReadStream(file), hash);
  return hash.digest('hex');
}

/** `null` when a qcow2 image (with its chain) is as long as the raw file and reads as it does; else what is different. */
export async function difference(qcow2: string, raw: string): Promise<string | null> {
  const { exitCode, stdout, stderr } = await execa(
    'qemu-img',
    ['compare', '-U', '-f', 'qcow2', '-F', 'raw', qcow2, raw],
    { reject: false },
  );
  // Zeroes at the end of the longer one it only warns of.
  return exitCode === 0 && stdout === 'Images are identical.' ? null : `${stdout}${stderr}`;
}

const [PIECE, OTHER_PIECE] = [Buffer.alloc(MiB), Buffer.alloc(MiB)];

/** Whether two files hold the same; in pieces: a process with large buffers takes long to start others. */
export function areSame(path: string, otherPath: string): boolean {
  const [file, other] = [openSync(path, 'r'), openSync(otherPath, 'r')];
  try {
    for (;;) {
      const piece = PIECE.subarray(0, readSync(file, PIECE));
      if (!piece.equals(OTHER_PIECE.subarray(0, readSync(other, OTHER_PIECE)))) return false;
      if (piece.length === 0) return true;
    }
  } finally {
    for (const fd of [file, other]) closeSync(fd);
  }
}
