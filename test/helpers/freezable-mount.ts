/** A filesystem that hangs as a NAS does: who writes to it sleeps in the kernel and does not even die of SIGKILL. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { killProcessesIn, type Teardown, tempDir } from './temp-dir.ts';

export interface FreezableMount {
  readonly dir: string;
  freeze(): void;
  thaw(): void;
}

/** An empty ext4 of so many bytes in a file, mounted until the test ends. Needs root, or sudo without a password. */
export function freezableMount(t: Teardown, sizeBytes: number): FreezableMount {
  const outer = tempDir(t);
  const image = join(outer, 'ext4');
  const dir = join(outer, 'mnt');
  writeFileSync(image, '');
  truncateSync(image, sizeBytes);
  mkdirSync(dir);
  execFileSync('/sbin/mkfs.ext4', ['-q', '-F', image]);
  asRoot('mount', '-o', 'loop', image, dir);
  asRoot('chmod', '0777', dir);
  let frozen = false;
  const mount = {
    dir,
    freeze: () => {
      asRoot('fsfreeze', '-f', dir);
      frozen = true;
    },
    thaw: () => {
      if (frozen) asRoot('fsfreeze', '-u', dir);
      frozen = false;
    },
  };
  t.teardown(() => {
    mount.thaw();
    killProcessesIn(dir);
    asRoot('umount', '--lazy', dir);
  });
  return mount;
}

function asRoot(...command: string[]): void {
  const [program = '', ...args] = process.getuid?.() === 0 ? command : ['sudo', '-n', ...command];
  execFileSync(program, args);
}
