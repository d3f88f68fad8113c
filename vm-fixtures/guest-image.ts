/** The tiny Linux that scripts/setup builds with guest/build: where it is. */
import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { FixtureError } from './errors.ts';
import { cacheDir } from './qemu-versions.ts';

/** Built anew whenever its recipe changes, so its folder is named after the recipe. @throws fixture-missing */
export function guestImage(): { kernel: string; initrd: string } {
  const hash = createHash('sha256');
  for (const part of ['build', 'init']) hash.update(readFileSync(join(import.meta.dirname, 'guest', part)));
  const dir = join(cacheDir(), `guest-${hash.digest('hex').slice(0, 12)}`);
  if (!existsSync(dir)) throw new FixtureError('fixture-missing', `no guest in ${dir}: run scripts/setup`);
  return { kernel: join(dir, 'vmlinuz'), initrd: join(dir, 'initrd') };
}
