/**
 * Operations as the daemon does them: each asked with the method of the same meaning, and answered in the same shape as
 * if it had been done here.
 */
import { messageOf, QmpvaultError } from '../base/errors.ts';
import type { OperationName, Params, Progress, Result } from '../operations/index.ts';
import type { RpcClient } from '../rpc/client.ts';
import { followRun } from '../rpc/follow-run.ts';
import type { MethodName } from '../rpc/methods.ts';

type Fields = Readonly<Record<string, unknown>>;
type Wish = (params: Fields) => Fields;

interface Way {
  readonly method: MethodName;
  /** It begins a run, and what that ends with is the answer. */
  readonly isRun?: true;
  /** Of the parameters, what the method takes and under which names. */
  readonly wish?: Wish;
}

const WAYS: Readonly<Partial<Record<OperationName, Way>>> = {
  backup: {
    method: 'backup.start',
    isRun: true,
    wish: ({ point, ...rest }) => ({ ...rest, pointId: point }),
  },
  restore: { method: 'restore.start', isRun: true },
  verify: { method: 'verify.start', isRun: true },
  prune: {
    method: 'prune.start',
    isRun: true,
    wish: (wish) => ({ ...wish, whenBusy: busy(wish['waitMs']) }),
  },
  delete: {
    method: 'point.delete',
    isRun: true,
    wish: (wish) => ({ ...wish, whenBusy: busy(wish['waitMs']) }),
  },
  list: { method: 'point.list' },
  show: { method: 'point.get' },
  chain: { method: 'chain.get' },
  protect: { method: 'point.protect', wish: ({ waitMs: _, ...rest }) => rest },
  holds: { method: 'hold.list' },
  inspect: { method: 'vm.inspect' },
  bitmaps: { method: 'bitmap.list' },
};

/** What the command line always says, and the daemon decides by itself unless it is told otherwise. */
const SILENT: Readonly<Record<string, unknown>> = {
  quiesce: 'auto',
  waitMs: 0,
  breakLease: false,
  force: false,
  keep: null,
  cache: true,
};

export interface RemoteControl {
  readonly signal: AbortSignal;
  readonly onProgress?: ((progress: Progress) => void) | undefined;
  readonly onReady?: ((result: object) => void) | undefined;
}

/** @throws usage for a wish that the daemon takes from its configuration; what the operation throws; daemon-* */
export async function performRemotely<N extends OperationName>(
  client: RpcClient,
  name: N,
  params: Omit<Params<N>, 'vault'>,
  control: RemoteControl,
): Promise<Result<N>> {
  const given = Object.entries(params).filter(([key, value]) => value !== undefined && value !== SILENT[key]);
  const fields = Object.fromEntries(given);
  if (name === 'serve') return serve(client, fields, control) as Promise<Result<N>>;
  const way = wayOf(name, fields);
  const wish = Object.fromEntries(
    Object.entries(way.wish?.(fields) ?? fields).filter(([, value]) => value !== undefined),
  );
  const answer = await ask(client, way, wish, control);
  return answer as Result<N>;
}

function wayOf(name: OperationName, { remove, end }: Fields): Way {
  if (name === 'holds' && end !== undefined) {
    return { method: 'hold.end', wish: ({ end, ...rest }) => ({ ...rest, holdId: end }) };
  }
  if (name === 'bitmaps' && remove !== undefined) {
    return { method: 'bitmap.remove', wish: ({ remove, ...rest }) => ({ ...rest, which: remove }) };
  }
  const way = WAYS[name];
  if (way !== undefined) return way;
  throw new QmpvaultError('usage', `'${name}' needs no daemon: name the vault with --vault`);
}

async function ask(client: RpcClient, way: Way, wish: Fields, control: RemoteControl): Promise<unknown> {
  try {
    if (!way.isRun) return await client.call(way.method, wish as never, { signal: control.signal });
    const { runId } = (await client.call(way.method, wish as never)) as { runId: string };
    return await followRun(client, runId, control);
  } catch (error) {
    const details = error instanceof QmpvaultError ? error.details : {};
    if (!/unknown /.test(messageOf(error)) || !('problems' in details)) throw error;
    throw new QmpvaultError(
      'usage',
      `${messageOf(error)}. The daemon decides that by its configuration; name the vault with --vault to do without it.`,
      { details, cause: error },
    );
  }
}

function busy(waitMs: unknown): 'wait' | 'refuse' {
  return waitMs === undefined ? 'refuse' : 'wait';
}

/** Until it is interrupted. */
async function serve(
  client: RpcClient,
  params: Fields,
  { signal, onReady }: RemoteControl,
): Promise<unknown> {
  const { exportId, ...served } = await client.call('nbd.start', params as never, { signal });
  onReady?.(served);
  const { promise, resolve } = Promise.withResolvers<void>();
  signal.addEventListener('abort', () => resolve(), { once: true });
  if (!signal.aborted) await promise;
  await client.call('nbd.stop', { exportId });
  return served;
}
