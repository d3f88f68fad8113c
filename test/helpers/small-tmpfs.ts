/** A filesystem that fills up when a test wants it to. */
import { execFileSync } from 'node:child_process';
import { statfs } from 'node:fs/promises';
import { killProcessesIn, type Teardown, tempDir } from './temp-dir.ts';

/** An empty tmpfs of so many bytes, mounted until the test ends. Needs root, or sudo without a password. */
export function smallTmpfs(t: Teardown, sizeBytes: number): string {
  const dir = tempDir(t);
  asRoot('mount', '-t', 'tmpfs', '-o', `size=${sizeBytes},mode=0777`, 'qmpvault-test', dir);
  t.teardown(() => {
    killProcessesIn(dir);
    asRoot('umount', '--lazy', dir);
  });
  return dir;
}

/** There is room again. */
export function growTmpfs(dir: string, sizeBytes: number): void {
  asRoot('mount', '-o', `remount,size=${sizeBytes}`, dir);
}

function asRoot(...command: string[]): void {
  const [program = '', ...args] = process.getuid?.() === 0 ? command : ['sudo', '-n', ...command];
  execFileSync(program, args);
}

/** What is in it. */
export async function usedBytes(dir: string): Promise<number> {
  const { blocks, bfree, bsize } = await statfs(dir);
  return (blocks - bfree) * bsize;
}
