/** Lets everybody else have a turn after a while of work: a client with thousands of requests delays nobody's one. */
import { setImmediate as nextTurn } from 'node:timers/promises';

const SLICE_MS = 2;

export class TimeSlice {
  #endsAt = 0;

  /** To be called before each piece of work. */
  async pause(): Promise<void> {
    if (performance.now() < this.#endsAt) return;
    await nextTurn();
    this.#endsAt = performance.now() + SLICE_MS;
  }
}
