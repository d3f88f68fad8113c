/** A text that must never be seen: mount options with a password, the address of a webhook with its token. */
import { inspect } from 'node:util';

const MASK = '(secret)';

/** Every way in which a value gets into a message or a log by accident shows the mask. */
export class Secret {
  readonly #text: string;

  constructor(text: string) {
    this.#text = text;
  }

  /** For the one call that needs it. */
  reveal(): string {
    return this.#text;
  }

  equals(other: Secret): boolean {
    return this.#text === other.#text;
  }

  toString(): string {
    return MASK;
  }

  toJSON(): string {
    return MASK;
  }

  [inspect.custom](): string {
    return MASK;
  }
}
