/** What a call works with on this host. */
import type { Engine } from '../backup/engine.ts';
import type { OperationName, Params, Result } from '../operations/index.ts';

export interface Site {
  readonly engine: Engine;
  readonly signal: AbortSignal;
  /** Has an operation done: in this process, or by the daemon. */
  ask<N extends OperationName>(name: N, params: Params<N>): Promise<Result<N>>;
  readonly configFile: string;
}
