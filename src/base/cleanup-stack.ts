/**
 * Undoing in the reverse order of doing. Each step has a deadline of its own and runs even when an earlier one
 * failed and after an abort; what failed is collected and thrown together at the end.
 */
import { bounded } from './deadline.ts';

interface Step {
  readonly what: string;
  readonly undo: () => Promise<void> | void;
  readonly timeoutMs: number;
}

export class CleanupStack {
  readonly #steps: Step[] = [];
  #closing: Promise<void> | undefined;

  /** Registers how to undo what was just done. */
  add(what: string, undo: () => Promise<void> | void, timeoutMs = 10_000): void {
    this.#steps.push({ what, undo, timeoutMs });
  }

  /** Idempotent. @throws AggregateError of what could not be undone */
  close(): Promise<void> {
    this.#closing ??= this.#undo();
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #undo(): Promise<void> {
    const failures: unknown[] = [];
    for (let step = this.#steps.pop(); step !== undefined; step = this.#steps.pop()) {
      const { what, undo, timeoutMs } = step;
      try {
        await bounded(Promise.resolve(undo()), { what, timeoutMs });
      } catch (error) {
        failures.push(error);
      }
    }
    if (failures.length > 0) throw new AggregateError(failures, 'not everything could be undone');
  }
}
