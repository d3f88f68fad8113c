/** Comparing images with the truth of their moment. */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { pipeline } from 'node:stream/promises';
import { execa } from 'execa';

export async function sha256(file: string): Promise<string> {
  const hash = createHash('sha256');
  await pipeline(createReadStream(file), hash);
  return hash.digest('hex');
}

/** `null` when a qcow2 image (with its chain) reads as the raw file does; else what `qemu-img compare` found. */
export async function difference(qcow2: string, raw: string): Promise<string | null> {
  const { exitCode, stdout, stderr } = await execa(
    'qemu-img',
    ['compare', '-U', '-f', 'qcow2', '-F', 'raw', qcow2, raw],
    { reject: false },
  );
  return exitCode === 0 ? null : `${stdout}${stderr}`;
}
