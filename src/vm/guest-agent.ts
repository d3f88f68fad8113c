/** The guest agent of a VM, for freezing its filesystems at the moment. */
import { GuestAgent } from '../../qmp/index.ts';
import { socketPath } from '../base/ids.ts';

export type { GuestAgent };

/** @throws qmp-agent when none answers in time, path-too-long */
export async function connectAgent(
  path: string,
  { signal, timeoutMs = 5_000 }: { signal?: AbortSignal | undefined; timeoutMs?: number } = {},
): Promise<GuestAgent> {
  return GuestAgent.connect({ path: socketPath(path), timeoutMs, ...(signal && { signal }) });
}
