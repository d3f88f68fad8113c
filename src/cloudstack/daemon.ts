/**
 * Has a run done by the daemon, where one answers in time and takes it; else in this process. Both perform the same
 * operation (decision 62), and each finds what the other has begun or made: so whatever becomes of the daemon
 * meanwhile, going on here is right.
 */
import { codeOf, messageOf } from '../base/errors.ts';
import type { Result } from '../operations/index.ts';
import { type Bound, RpcClient } from '../rpc/client.ts';
import { followRun, isLost } from '../rpc/follow-run.ts';
import type { MethodParams } from '../rpc/methods.ts';
import { daemonSocket } from './configured.ts';
import type { Site } from './site.ts';

/** One that does not answer for so long is not waited for. */
const DAEMON_MS = 5_000;

/** @throws as the operation */
export async function byDaemonOr<N extends 'backup' | 'delete'>(
  name: N,
  params: MethodParams<`share.${N}`>,
  site: Site,
  here: () => Promise<Result<N>>,
  answerMs = DAEMON_MS,
): Promise<Result<N>> {
  const { signal } = site;
  const { log } = site.engine;
  const socket = await daemonSocket(site);
  const without = (error: unknown) => {
    if (codeOf(error) === 'cancelled') throw error;
    log.info({ socket, code: codeOf(error) }, `the ${name} is done without the daemon: ${messageOf(error)}`);
    return here();
  };
  const run = await begin(socket, `share.${name}`, params, { signal, timeoutMs: answerMs }).catch(
    (error: unknown) => ({ error }),
  );
  if ('error' in run) return without(run.error);
  const { client, runId } = run;
  try {
    log.info({ socket, runId }, `the daemon does the ${name}`);
    return (await followRun(client, runId, { signal })) as Result<N>;
  } catch (error) {
    if (!isLost(error)) throw error;
    return await without(error);
  } finally {
    await client.close();
  }
}

async function begin(
  socket: string,
  method: 'share.backup' | 'share.delete',
  params: object,
  { signal, timeoutMs }: Bound,
): Promise<{ client: RpcClient; runId: string }> {
  const client = await RpcClient.connect(socket, { signal, timeoutMs });
  try {
    // Not ended by a signal: a run that has begun has to be known, to be cancelled.
    const { runId } = await client.call(method, params as never, { timeoutMs });
    return { client, runId };
  } catch (error) {
    await client.close();
    throw error;
  }
}
