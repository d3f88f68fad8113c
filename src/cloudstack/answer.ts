/**
 * What the caller reads on stdout. Of a backup it takes the last line as the size, and where it named disks it adds up
 * the first word of every line; so there is one number, and nothing else but the marker that callers of increments know.
 */
import { messageOf } from '../base/errors.ts';

export interface StoredPoint {
  readonly kind: 'full' | 'incremental';
  readonly disks: readonly { readonly storedBytes: number }[];
}

export function backupAnswer({ kind, disks }: StoredPoint, mode: string): string {
  const bytes = disks.reduce((sum, disk) => sum + disk.storedBytes, 0);
  const marker = mode === 'incremental' && kind === 'full' ? 'INCREMENTAL_FALLBACK=true\n' : '';
  return `${marker}${bytes}\n`;
}

/** A word, the size and what is used, in KiB as `df -P` has them. */
export function statsAnswer({
  blocks,
  bfree,
  bsize,
}: {
  blocks: number;
  bfree: number;
  bsize: number;
}): string {
  const kib = (count: number) => Math.floor((count * bsize) / 1024);
  return `repository ${kib(blocks)} ${kib(blocks - bfree)}\n`;
}

/** One line, whatever the text holds: tools quoted in it may say several. */
export function failureAnswer(code: string, error: unknown): string {
  return `${code}: ${messageOf(error)
    .trim()
    .replace(/\s*\n\s*/g, '; ')}\n`;
}
