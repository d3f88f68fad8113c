import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';

/**
 * What a process of ours says, one JSON document per line. One that was killed in the middle of a word leaves half a line,
 * or an error of its pipe: that it has ended tells more.
 */
export function onJsonLines<T>(input: Readable, heed: (message: T) => void): void {
  const lines = createInterface({ input });
  lines.on('error', () => {});
  lines.on('line', (line) => {
    let message: T;
    try {
      message = JSON.parse(line) as T;
    } catch {
      return;
    }
    heed(message);
  });
}
