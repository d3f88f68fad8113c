/**
 * Whether a QEMU of this host writes to a file. To replace an image under a running VM would lose all that the VM
 * writes from then on; QEMU's own locks do not stop a rename, but /proc/locks shows them.
 */
import type { Stats } from 'node:fs';
import * as fs from 'node:fs/promises';

/** RAW_LOCK_PERM_BASE plus the bit of BLK_PERM_WRITE in block/file-posix.c of QEMU: locked by whoever may write. */
const WRITE_PERMISSION_BYTE = 101;

export async function isWrittenByQemu(file: Stats): Promise<boolean> {
  return locksHold(await fs.readFile('/proc/locks', 'latin1').catch(() => ''), file);
}

/** Pure. Lines of proc(5) locks: `1: OFDLCK ADVISORY READ -1 08:01:1234 100 101`, the device in hex. */
export function locksHold(locks: string, { dev, ino }: Pick<Stats, 'dev' | 'ino'>): boolean {
  return locks.split('\n').some((line) => {
    const [, kind, , , , place = '', first, last] = line.trim().split(/\s+/);
    const [major, minor, inode] = place.split(':');
    const isSame =
      Number(inode) === ino &&
      device(Number.parseInt(major ?? '', 16), Number.parseInt(minor ?? '', 16)) === dev;
    const end = last === 'EOF' ? Number.POSITIVE_INFINITY : Number(last);
    return (
      kind === 'OFDLCK' && isSame && Number(first) <= WRITE_PERMISSION_BYTE && WRITE_PERMISSION_BYTE <= end
    );
  });
}

/** makedev(3). */
function device(major: number, minor: number): number {
  return (minor & 0xff) + (major & 0xfff) * 0x100 + (minor >>> 8) * 0x100000;
}
