/** Bounding what waits: every waiting call takes an AbortSignal and a deadline. */
import { type ErrorCode, QmpvaultError } from './errors.ts';

/** @throws cancelled */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw cancelledBy(signal);
}

/** The error a cancelled operation ends with: the signal's own reason if that is one of ours. */
export function cancelledBy(signal: AbortSignal): QmpvaultError {
  return signal.reason instanceof QmpvaultError
    ? signal.reason
    : new QmpvaultError('cancelled', 'cancelled', { cause: signal.reason });
}

export interface Bound {
  readonly signal?: AbortSignal | undefined;
  readonly timeoutMs?: number | undefined;
  /** What is being waited for, for the message: `the writer's socket`. */
  readonly what: string;
  /** The code when the time is up. */
  readonly code?: ErrorCode;
}

/**
 * Waits for a promise, but no longer than the deadline or the signal allow. The promise itself goes on: use
 * this only for what can be left behind, and its late rejection is swallowed.
 * @throws cancelled, or `code` (default `internal`) when the time is up
 */
export async function bounded<T>(promise: Promise<T>, { signal, timeoutMs, what, code }: Bound): Promise<T> {
  promise.catch(() => {});
  throwIfAborted(signal);
  const { promise: stop, reject } = Promise.withResolvers<never>();
  stop.catch(() => {});
  const onAbort = () => signal && reject(cancelledBy(signal));
  signal?.addEventListener('abort', onAbort, { once: true });
  const timer =
    timeoutMs === undefined
      ? undefined
      : setTimeout(() => {
          reject(new QmpvaultError(code ?? 'internal', `waited ${timeoutMs} ms for ${what}`));
        }, timeoutMs);
  try {
    return await Promise.race([promise, stop]);
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', onAbort);
  }
}

/**
 * Looks again and again for something that announces itself in no other way (a file made by another process),
 * every `everyMs`. @throws cancelled, or `code` when the time is up
 */
export async function until<T>(
  look: () => Promise<T | undefined>,
  { signal, timeoutMs = 10_000, what, code, everyMs = 5 }: Bound & { everyMs?: number },
): Promise<T> {
  const end = performance.now() + timeoutMs;
  for (;;) {
    throwIfAborted(signal);
    const found = await look();
    if (found !== undefined) return found;
    if (performance.now() > end) {
      throw new QmpvaultError(code ?? 'internal', `waited ${timeoutMs} ms for ${what}`);
    }
    const { promise, resolve } = Promise.withResolvers<void>();
    setTimeout(resolve, everyMs);
    await promise;
  }
}

/** Resolves when the signal is aborted, or after `timeoutMs`. */
export async function untilAborted(signal: AbortSignal | undefined, timeoutMs?: number): Promise<void> {
  if (signal?.aborted) return;
  const { promise, resolve } = Promise.withResolvers<void>();
  const onEnd = () => resolve();
  const timer = timeoutMs === undefined ? undefined : setTimeout(onEnd, timeoutMs);
  signal?.addEventListener('abort', onEnd, { once: true });
  await promise;
  clearTimeout(timer);
  signal?.removeEventListener('abort', onEnd);
}
