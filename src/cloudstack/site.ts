/** What a call works with on this host. */
import type { Engine } from '../backup/engine.ts';

export interface Site {
  readonly engine: Engine;
  readonly signal: AbortSignal;
  readonly configFile: string;
}
