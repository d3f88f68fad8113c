import type { Log } from '../base/log.ts';
import type { ReachStep } from '../base/steps.ts';
import type { QemuTools } from '../image/tools.ts';
import type { Work } from './work.ts';

/** What upkeep needs on this host. */
export interface UpkeepEngine {
  /** For sockets: a short path. */
  readonly runtimeDir: string;
  readonly tools: QemuTools;
  readonly log: Log;
  readonly reachStep: ReachStep;
}

export interface UpkeepControl {
  readonly signal?: AbortSignal | undefined;
  readonly onWork?: ((work: Work) => void) | undefined;
}
