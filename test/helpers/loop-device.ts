/** A block device that a test may overwrite. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { asRoot } from './as-root.ts';
import { type Teardown, tempDir } from './temp-dir.ts';

/** A loop device full of one byte, detached when the test ends. Needs root, or sudo without a password. */
export function loopDevice(t: Teardown, sizeBytes: number, fill: number): string {
  const file = join(tempDir(t), 'device');
  writeFileSync(file, Buffer.alloc(sizeBytes, fill));
  const device = asRoot('losetup', '--find', '--show', file).trim();
  t.teardown(() => asRoot('losetup', '--detach', device));
  return device;
}
