/** Bounding what waits. Like src/base/deadline.ts, which this room may not import. */
import { QmpError } from './errors.ts';

export interface Bound {
  readonly timeoutMs?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** setTimeout fires at once for anything longer. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

/**
 * Calls `expire` when the time is up (`qmp-timeout`) or the signal aborts (`qmp-aborted`), whichever is first.
 * A callback and not a race of promises, so that whoever waits is removed in the same tick: a reply or an
 * event that arrives then goes to somebody who still wants it.
 * @returns what disarms it
 */
export function arm(
  { timeoutMs, signal }: Bound,
  what: string,
  expire: (error: QmpError) => void,
): () => void {
  const fire = (error: QmpError) => {
    disarm();
    expire(error);
  };
  const onAbort = () => fire(aborted(signal, what));
  const onTimeout = () => fire(new QmpError('qmp-timeout', `waited ${timeoutMs} ms for ${what}`));
  const timer =
    timeoutMs !== undefined && timeoutMs <= LONGEST_TIMER_MS ? setTimeout(onTimeout, timeoutMs) : undefined;
  const disarm = () => {
    clearTimeout(timer);
    signal?.removeEventListener('abort', onAbort);
  };
  if (signal?.aborted) onAbort();
  else signal?.addEventListener('abort', onAbort);
  return disarm;
}

/** @throws qmp-aborted */
export function throwIfAborted(signal: AbortSignal | undefined, what: string): void {
  if (signal?.aborted) throw aborted(signal, what);
}

function aborted(signal: AbortSignal | undefined, what: string): QmpError {
  return new QmpError('qmp-aborted', `cancelled while waiting for ${what}`, { cause: signal?.reason });
}
