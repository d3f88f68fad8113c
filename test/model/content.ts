/** What a disk holds, as a value. Chunks are shared and never changed, so that keeping a moment costs next to nothing. */
import { readFile } from 'node:fs/promises';
import { KiB } from '../../src/base/units.ts';

const CHUNK_BYTES = 64 * KiB;
const ZEROES = Buffer.alloc(CHUNK_BYTES);

export class Content {
  readonly sizeBytes: number;
  /** Beyond the size the last one holds zeroes. */
  readonly #chunks: readonly Buffer[];

  private constructor(sizeBytes: number, chunks: readonly Buffer[]) {
    this.sizeBytes = sizeBytes;
    this.#chunks = chunks;
  }

  static zeroes(sizeBytes: number): Content {
    return new Content(sizeBytes, Array<Buffer>(Math.ceil(sizeBytes / CHUNK_BYTES)).fill(ZEROES));
  }

  static async ofRaw(path: string): Promise<Content> {
    const bytes = await readFile(path);
    const chunks: Buffer[] = [];
    for (let at = 0; at < bytes.length; at += CHUNK_BYTES) {
      const chunk = bytes.subarray(at, at + CHUNK_BYTES);
      chunks.push(chunk.length === CHUNK_BYTES ? chunk : Buffer.concat([chunk], CHUNK_BYTES));
    }
    return new Content(bytes.length, chunks);
  }

  filled(pattern: number, offset: number, length: number): Content {
    const chunks = [...this.#chunks];
    const end = Math.min(offset + length, this.sizeBytes);
    for (let at = offset; at < end; ) {
      const index = Math.floor(at / CHUNK_BYTES);
      const from = at % CHUNK_BYTES;
      const to = Math.min(CHUNK_BYTES, from + end - at);
      const chunk = Buffer.from(chunks[index] ?? ZEROES);
      chunks[index] = chunk.fill(pattern, from, to);
      at += to - from;
    }
    return new Content(this.sizeBytes, chunks);
  }

  /** What is added reads as zeroes. */
  resized(sizeBytes: number): Content {
    const kept = this.#chunks.slice(0, Math.ceil(sizeBytes / CHUNK_BYTES));
    const last = sizeBytes % CHUNK_BYTES;
    if (sizeBytes < this.sizeBytes && last !== 0) {
      kept.push(Buffer.from(kept.pop() ?? ZEROES).fill(0, last));
    }
    const grown = Content.zeroes(sizeBytes).#chunks.slice(kept.length);
    return new Content(sizeBytes, [...kept, ...grown]);
  }

  /** Chunk by chunk what the one or the other holds. */
  isMixOf(one: Content, other: Content): boolean {
    return (
      this.sizeBytes === one.sizeBytes &&
      this.#chunks.every(
        (chunk, i) => one.#chunks[i]?.equals(chunk) === true || other.#chunks[i]?.equals(chunk) === true,
      )
    );
  }

  /** null when it is the same; else where it is not, in words. */
  differenceTo(other: Content): string | null {
    if (other.sizeBytes !== this.sizeBytes) return `${other.sizeBytes} bytes instead of ${this.sizeBytes}`;
    const differing = this.#chunks.flatMap((chunk, index) =>
      other.#chunks[index]?.equals(chunk) ? [] : [index],
    );
    const [first] = differing;
    if (first === undefined) return null;
    const [expected, found] = [this.#chunks[first] ?? ZEROES, other.#chunks[first] ?? ZEROES];
    const at = expected.findIndex((byte, i) => byte !== found[i]);
    return `${differing.length} of ${this.#chunks.length} chunks differ, first at ${first * CHUNK_BYTES + at}: ${found[at]} instead of ${expected[at]}`;
  }
}
