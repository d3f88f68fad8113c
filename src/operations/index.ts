/** The table of operations; each is loaded when it is first asked for. */
import type { z } from 'zod';
import { parseParams } from '../rpc/params.ts';
import type { ResultJson, ResultName } from '../rpc/results.ts';
import type { Share } from '../rpc/share.ts';
import type { OperationContext } from './operation.ts';

export type { OperationContext, Progress } from './operation.ts';

const OPERATIONS = {
  init: () => import('./init.ts'),
  backup: () => import('./backup.ts'),
  inspect: () => import('./inspect.ts'),
  bitmaps: () => import('./bitmaps.ts'),
  list: () => import('./list.ts'),
  show: () => import('./show.ts'),
  chain: () => import('./chain.ts'),
  restore: () => import('./restore.ts'),
  serve: () => import('./serve.ts'),
  fill: () => import('./fill.ts'),
  holds: () => import('./holds.ts'),
  verify: () => import('./verify.ts'),
  protect: () => import('./protect.ts'),
  delete: () => import('./delete.ts'),
  rebase: () => import('./rebase.ts'),
  prune: () => import('./prune.ts'),
  seal: () => import('./seal.ts'),
  stats: () => import('./stats.ts'),
} satisfies { [N in ResultName]: () => Promise<Operation<N>> };

/** What it answers is what src/rpc/results.ts promises. */
interface Operation<N extends ResultName> {
  readonly params: z.ZodType;
  readonly run: (params: never, context: OperationContext) => Promise<ResultJson<N>>;
}

export type OperationName = keyof typeof OPERATIONS;
type ModuleOf<N extends OperationName> = Awaited<ReturnType<(typeof OPERATIONS)[N]>>;
/** As JSON; names are checked and defaults are set when it is performed. */
export type Params<N extends OperationName> = z.input<ModuleOf<N>['params']>;
export type Result<N extends OperationName> = Awaited<ReturnType<ModuleOf<N>['run']>>;

export const OPERATION_NAMES = Object.keys(OPERATIONS) as OperationName[];

/** The same, of a vault that is a folder or on a share, which is mounted for as long as the operation lasts. */
export type Wish<N extends OperationName> =
  | Params<N>
  | (Omit<Params<N>, 'vault'> & { readonly vault: Share });

/** @throws usage for parameters that make no sense; what the operation throws */
export async function perform<N extends OperationName>(
  name: N,
  wish: Wish<N>,
  context: OperationContext,
): Promise<Result<N>> {
  const {
    params: schema,
    run,
  }: { params: z.ZodType; run: (params: never, context: OperationContext) => unknown } =
    await OPERATIONS[name]();
  const does = async (params: unknown, context: OperationContext) =>
    run(parseParams(schema, params) as never, context);
  const { vault } = wish as { vault?: string | Share };
  if (typeof vault !== 'object') return (await does(wish, context)) as Result<N>;
  const [{ onShare }, { shareParam }] = await Promise.all([import('./share.ts'), import('../rpc/share.ts')]);
  const share = parseParams(shareParam, vault);
  return (await onShare(share, context, (vault, context) => does({ ...wish, vault }, context))) as Result<N>;
}
