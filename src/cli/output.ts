/**
 * What a command says. stdout carries its result and nothing else: text, or with --json exactly one document, also
 * when it fails. Everything else goes to stderr. A reader that goes away (`qmpvault list | head`) is no failure.
 */
import type { Writable } from 'node:stream';
import { codeOf, EXIT, errnoOf, errorJson, exitCodeOf, messageOf } from '../base/errors.ts';
import type { ProgressBars } from './progress-bars.ts';
import { Screen, type Terminal } from './screen.ts';
import type { Surroundings } from './surroundings.ts';

export class Output {
  readonly isJson: boolean;
  /** Of a command that came to its end. */
  exitCode: number = EXIT.done;
  readonly #stdout: Terminal;
  readonly #stderr: Surroundings['stderr'];
  #bars: ProgressBars | undefined;
  #hasResult = false;

  constructor({ stdout, stderr }: Pick<Surroundings, 'stdout' | 'stderr'>, isJson: boolean) {
    this.isJson = isJson;
    this.#stdout = stdout;
    this.#stderr = stderr;
    // Each write sees its own error; without a listener the stream would throw it once more.
    for (const stream of [stdout, stderr]) stream.on('error', () => {});
  }

  /** What a command that did what it should has to say, once. @throws what writing to stdout failed with, but EPIPE */
  async result({
    json,
    text,
    warnings = [],
  }: {
    json: object;
    /** What it costs to make is spared where nobody reads it. */
    text: string | (() => string);
    warnings?: readonly string[];
  }): Promise<void> {
    this.#hasResult = true;
    if (!this.isJson) for (const warning of warnings) this.note(`warning: ${warning}`);
    const words = () => (typeof text === 'string' ? text : text());
    await write(this.#stdout, this.isJson ? `${JSON.stringify(json, null, 2)}\n` : words());
  }

  /** The end of a command that did not, perhaps after it began to. @returns its exit code */
  async fail(error: unknown): Promise<number> {
    if (this.isJson && !this.#hasResult) {
      // Nothing is left to be told when this cannot be written: the exit code says it all.
      await write(this.#stdout, `${JSON.stringify({ error: errorJson(error) }, null, 2)}\n`).catch(() => {});
    } else {
      this.note(messageOf(error));
    }
    // What somebody has to report to us, and cannot know otherwise.
    if (codeOf(error) === 'internal' && error instanceof Error) this.#stderr.write(`${error.stack}\n`);
    return exitCodeOf(error);
  }

  /** One line, whatever the text holds: tools quoted in it may say several. */
  note(text: string): void {
    const line = `qmpvault: ${text.trim().replace(/\s*\n\s*/g, '; ')}\n`;
    if (this.#bars?.isDrawn) this.#bars.log(line);
    else this.#stderr.write(line);
  }

  /** Bars on a terminal; undefined where nobody watches. */
  async progressBars(): Promise<ProgressBars | undefined> {
    if (this.isJson || !this.#stderr.isTTY) return undefined;
    const { ProgressBars } = await import('./progress-bars.ts');
    this.#bars = new ProgressBars(this.#stderr);
    return this.#bars;
  }

  /** What a live view is drawn on. */
  screen(): Screen {
    return new Screen(this.#stdout);
  }

  help(text: string): void {
    this.#stdout.write(text);
  }

  /** Help that nobody asked for. */
  helpOnError(text: string): void {
    if (!this.isJson) this.#stderr.write(text);
  }
}

async function write(stream: Writable, text: string): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  stream.write(text, (error) => (error && errnoOf(error) !== 'EPIPE' ? reject(error) : resolve()));
  await promise;
}
