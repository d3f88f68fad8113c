/** What a full is compared with: other programs that copy the same image onto the same filesystem, durably. */
import { open, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';

/** `qemu-img convert` plus fsync, in milliseconds. The VM has the image open (`-U`), and writes nothing meanwhile. */
export function convert(bin: string, source: string, target: string): Promise<number> {
  return durably(target, () =>
    execa(join(bin, 'qemu-img'), ['convert', '-U', '-f', 'qcow2', '-O', 'qcow2', source, target]),
  );
}

/** `cp` plus fsync, in milliseconds. */
export function copy(source: string, target: string): Promise<number> {
  return durably(target, () => execa('cp', ['--reflink=never', source, target]));
}

async function durably(target: string, make: () => PromiseLike<unknown>): Promise<number> {
  await rm(target, { force: true });
  await settle(join(target, '..'));
  const began = performance.now();
  await make();
  const file = await open(target, 'r+');
  await file.sync();
  await file.close();
  const tookMs = performance.now() - began;
  // As after every contender: who follows finds as much memory that was in use just now, which is cheaper than other memory.
  await rm(target);
  return tookMs;
}

/** Nothing that was written before is still to be written while something is timed. */
export async function settle(dir: string): Promise<void> {
  await execa('sync', ['--file-system', dir]);
}
