/**
 * SIGINT and SIGTERM end a command by its AbortSignal, so that what it began in a VM and on the NAS is undone. A
 * second signal changes nothing but says what is being waited for: a clean-up that is killed half-way would leave
 * a filter in the VM until the next command finds it.
 */
import type { EventEmitter } from 'node:events';
import { QmpvaultError } from './errors.ts';

const SIGNALS = ['SIGINT', 'SIGTERM'] as const;

export class Interruption {
  readonly #controller = new AbortController();
  readonly #source: EventEmitter;
  readonly #note: (text: string) => void;
  #doing = 'the command';

  constructor(source: EventEmitter, note: (text: string) => void) {
    this.#source = source;
    this.#note = note;
    for (const signal of SIGNALS) source.on(signal, this.#interrupt);
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** What the command does now, in words: `the backup of web1 (copying)`. */
  doing(what: string): void {
    this.#doing = what;
  }

  [Symbol.dispose](): void {
    for (const signal of SIGNALS) this.#source.off(signal, this.#interrupt);
  }

  readonly #interrupt = (name: string): void => {
    if (this.signal.aborted) {
      this.#note(
        `still undoing what ${this.#doing} began. Killed now, it would leave that to the next command.`,
      );
      return;
    }
    this.#note(`${name}: ending ${this.#doing}`);
    this.#controller.abort(
      new QmpvaultError('cancelled', `${this.#doing} was cancelled by ${name}`, {
        details: { signal: name },
      }),
    );
  };
}
