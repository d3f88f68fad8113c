/** From a run that was begun to what it ends with, as if the work had been done here. */
import { codeOf, messageOf, QmpvaultError } from '../base/errors.ts';
import type { RpcClient } from './client.ts';
import type { Run, RunProgress } from './run.ts';

export interface Following {
  /** Cancels the run; it is followed to its end all the same. */
  readonly signal: AbortSignal;
  readonly onProgress?: ((progress: RunProgress) => void) | undefined;
}

/** Asked again and again, so that a daemon that hangs is noticed. */
const ASK_EVERY_MS = 30_000;
const ANSWER_MS = 15_000;

/** @throws what the run ended with; daemon-lost, daemon-timeout, and the run goes on */
export async function followRun(
  client: RpcClient,
  runId: string,
  { signal, onProgress }: Following,
): Promise<unknown> {
  const listener = client.listen('run.progress');
  const tell = async () => {
    for await (const { params } of listener) {
      const { run } = params;
      if (run.id === runId && run.progress !== null) onProgress?.(run.progress);
    }
  };
  const telling = tell().catch(() => {});
  const cancel = () => {
    const why = messageOf(signal.reason);
    client.call('run.cancel', { runId, why }).catch(() => {});
  };
  signal.addEventListener('abort', cancel, { once: true });
  try {
    if (signal.aborted) cancel();
    if (onProgress !== undefined) await client.call('run.subscribe', { runId });
    return resultOf(await endOf(client, runId));
  } catch (error) {
    if (!isLost(error)) throw error;
    throw new QmpvaultError(
      codeOf(error),
      `${messageOf(error)}. Run ${runId} goes on: 'qmpvault rpc run.wait'`,
      {
        details: { runId },
        cause: error,
      },
    );
  } finally {
    signal.removeEventListener('abort', cancel);
    listener.close();
    await telling;
  }
}

/** Whether nothing is known of what was asked for, as the daemon does not answer any more. */
export function isLost(error: unknown): boolean {
  return ['daemon-lost', 'daemon-timeout', 'daemon-unreachable'].includes(codeOf(error));
}

async function endOf(client: RpcClient, runId: string): Promise<Run> {
  for (;;) {
    const timeoutMs = ASK_EVERY_MS + ANSWER_MS;
    const run = await client.call('run.wait', { runId, timeoutMs: ASK_EVERY_MS }, { timeoutMs });
    if (run.endedAt !== null) return run;
  }
}

/** @throws what the run ended with */
function resultOf({ id, state, result, error }: Run): unknown {
  if (state === 'succeeded') return result;
  if (error !== undefined && state === 'failed') {
    throw new QmpvaultError(error.code as QmpvaultError['code'], error.message, {
      details: { ...error.details, runId: id },
    });
  }
  throw new QmpvaultError('cancelled', `run ${id} was cancelled${error ? `: ${error.message}` : ''}`, {
    details: { ...error?.details, runId: id },
  });
}
