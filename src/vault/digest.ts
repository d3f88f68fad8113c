import { createHash } from 'node:crypto';
import * as fs from 'node:fs/promises';
import { throwIfAborted } from '../base/deadline.ts';
import { codeOf, messageOf } from '../base/errors.ts';
import { MiB } from '../base/units.ts';
import { ioError } from './io-error.ts';

export interface DigestOptions {
  readonly signal?: AbortSignal | undefined;
  /** Called with the bytes of each piece that was read. */
  readonly onBytes?: (bytes: number) => void;
}

/** The vault is full, or went away, after what counts was done. */
const PENDING = new Set(['vault-full', 'vault-away', 'vault-unreadable', 'lease-lost']);

/** What has to leave a digest pending, of a file that is there for good: deep verify fills it in. @throws everything else */
export function whyPending(error: unknown): string {
  if (codeOf(error) === 'cancelled') return 'cancelled';
  if (PENDING.has(codeOf(error))) return messageOf(error);
  throw error;
}

/** Lower-case hex. @throws vault-unreadable, cancelled */
export async function sha256File(path: string, { signal, onBytes }: DigestOptions = {}): Promise<string> {
  const hash = createHash('sha256');
  const buffer = Buffer.allocUnsafe(MiB);
  try {
    await using handle = await fs.open(path, 'r');
    for (;;) {
      throwIfAborted(signal);
      const { bytesRead } = await handle.read(buffer, 0, buffer.length);
      if (bytesRead === 0) return hash.digest('hex');
      hash.update(buffer.subarray(0, bytesRead));
      onBytes?.(bytesRead);
    }
  } catch (error) {
    throw ioError(error, 'reading', path);
  }
}
