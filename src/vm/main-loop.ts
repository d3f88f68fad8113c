/**
 * Whether QEMU's main loop answers. When it does not, the guest's reset, or its next exit, waits too: perhaps for I/O
 * of ours to a NAS that hangs. So the runs of this engine ask often, and give up early.
 */
import { type QmpArguments, type QmpClient, QmpError } from '../../qmp/index.ts';
import { untilAborted } from '../base/deadline.ts';
import { QmpvaultError } from '../base/errors.ts';

/** How long the main loop may be silent while a run has I/O in flight: it is the guest that waits meanwhile. */
export const SILENCE_MS = 400;
/** How long any command may take while targets are open: the main loop, and so the guest, may be waiting for the NAS. */
export const TARGETS_PATIENCE_MS = 700;
/** How often it is asked. */
export const TICK_MS = 200;

/** A command that any healthy main loop answers in time. @throws run-stalled */
export async function ask(
  client: QmpClient,
  command: string,
  { args = {}, silenceMs = SILENCE_MS }: { args?: QmpArguments; silenceMs?: number | undefined } = {},
): Promise<unknown> {
  try {
    return await client.execute(command, args, { timeoutMs: silenceMs });
  } catch (error) {
    if (error instanceof QmpError && error.code === 'qmp-timeout') throw stalled(silenceMs, error);
    throw error;
  }
}

/** Asks until the signal ends it. @param also done each time; throws to end the run @throws run-stalled */
export async function watchMainLoop(
  client: QmpClient,
  signal: AbortSignal,
  also: () => Promise<void>,
): Promise<void> {
  while (!signal.aborted) {
    await ask(client, 'query-status');
    await also();
    await untilAborted(signal, TICK_MS);
  }
}

export function stalled(afterMs: number, cause?: unknown): QmpvaultError {
  return new QmpvaultError('run-stalled', `no progress for ${Math.round(afterMs)} ms: does the NAS hang?`, {
    details: { afterMs },
    cause,
  });
}
