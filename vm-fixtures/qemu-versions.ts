/** The QEMU releases that scripts/setup provides, and where their programs are. */
import { existsSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { FixtureError } from './errors.ts';

/** bullseye (before copy-before-write), bookworm, bookworm-backports, sid. */
export const QEMU_VERSIONS = ['5.2', '7.2', '10.0', '11.1'] as const;
export type QemuVersion = (typeof QEMU_VERSIONS)[number];

/** Debian 12's own; the others are unpacked beside it. */
const INSTALLED: QemuVersion = '7.2';

/** Where scripts/setup keeps what is made once: the other QEMUs, the guest. */
export function cacheDir(): string {
  const { QMPVAULT_CACHE, XDG_CACHE_HOME } = process.env;
  return QMPVAULT_CACHE || join(XDG_CACHE_HOME || join(homedir(), '.cache'), 'qmpvault');
}

/** The folder with `qemu-system-x86_64`, `qemu-img` and so on. @throws fixture-missing */
export function qemuBin(version: QemuVersion): string {
  const dir = version === INSTALLED ? '/usr/bin' : join(cacheDir(), `qemu-${version}`, 'bin');
  if (existsSync(join(dir, 'qemu-system-x86_64'))) return dir;
  throw new FixtureError('fixture-missing', `no QEMU ${version} in ${dir}: run scripts/setup`);
}
