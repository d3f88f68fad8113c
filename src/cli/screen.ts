/** A text that is drawn again and again at the same place of a terminal; elsewhere one below the other. */
import type { Writable } from 'node:stream';

const CLEAR_LINE = '\x1b[K';
const CLEAR_BELOW = '\x1b[J';
const HIDE_CURSOR = '\x1b[?25l';
const SHOW_CURSOR = '\x1b[?25h';

export type Terminal = Writable & {
  readonly isTTY?: boolean;
  readonly columns?: number;
  readonly rows?: number;
};

export class Screen {
  readonly #stream: Terminal;
  #drawnLines = 0;

  constructor(stream: Terminal) {
    this.#stream = stream;
    if (stream.isTTY) stream.write(HIDE_CURSOR);
  }

  /** What does not fit is cut: a line that wraps would be in the way of the next drawing. */
  show(text: string): void {
    const { isTTY, columns = 80, rows = 24 } = this.#stream;
    if (!isTTY) {
      this.#stream.write(`${text}\n`);
      return;
    }
    const lines = text
      .trimEnd()
      .split('\n')
      .slice(0, rows - 1);
    const up = this.#drawnLines > 0 ? `\x1b[${this.#drawnLines}A` : '';
    const drawn = lines.map((line) => `${[...line].slice(0, columns).join('')}${CLEAR_LINE}\n`).join('');
    this.#stream.write(`${up}\r${drawn}${CLEAR_BELOW}`);
    this.#drawnLines = lines.length;
  }

  [Symbol.dispose](): void {
    if (this.#stream.isTTY) this.#stream.write(SHOW_CURSOR);
  }
}
