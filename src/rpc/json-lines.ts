/**
 * Bytes to lines, each byte looked at once. Not ndjson, which the QMP side uses: it measures a line only after a whole
 * chunk, and scans an unfinished one anew with every chunk.
 */
const NEWLINE = 0x0a;

/** JSON-RPC over a stream has no frame of its own: a document is a line. */
export class LineSplitter {
  readonly #maxBytes: number;
  /** The beginning of a line whose end has not arrived. */
  #parts: Buffer[] = [];
  #bytes = 0;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  /** The lines that end in this chunk, without their newline; `null` last, when a line is too long: then it is over. */
  *push(chunk: Buffer): Generator<string | null, void> {
    let begin = 0;
    for (let end = chunk.indexOf(NEWLINE); end >= 0; end = chunk.indexOf(NEWLINE, begin)) {
      const line = this.#take(chunk.subarray(begin, end));
      if (line === null) return yield null;
      yield line;
      begin = end + 1;
    }
    if (begin === chunk.length) return;
    this.#parts.push(chunk.subarray(begin));
    this.#bytes += chunk.length - begin;
    if (this.#bytes > this.#maxBytes) yield null;
  }

  /** What stands behind the last newline when the peer has ended. */
  rest(): string {
    return this.#take(Buffer.alloc(0)) ?? '';
  }

  #take(last: Buffer): string | null {
    const bytes = this.#bytes + last.length;
    const whole = this.#parts.length === 0 ? last : Buffer.concat([...this.#parts, last], bytes);
    this.#parts = [];
    this.#bytes = 0;
    return bytes > this.#maxBytes ? null : whole.toString('utf8');
  }
}
