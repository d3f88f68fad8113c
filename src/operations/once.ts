/** A point that is asked for again is not made again: whether it was made before, is being made, or is made by this call. */
import { until } from '../base/deadline.ts';
import { codeOf } from '../base/errors.ts';
import type { PointId } from '../base/ids.ts';
import type { Manifest } from '../vault/manifest.ts';
import type { VmFolder } from '../vault/vm-folder.ts';
import type { OperationContext } from './operation.ts';

interface Made {
  readonly point: Manifest;
  readonly warnings: readonly string[];
}

interface Making {
  /** Whoever changes the points is waited for so long. */
  readonly timeoutMs: number;
  readonly make: () => Promise<Made>;
  readonly context: OperationContext;
}

const POLL_MS = 1_000;

/** @throws vault-locked when the time is up, cancelled, what `make` throws */
export async function once(
  folder: VmFolder,
  id: PointId,
  { timeoutMs, make, context: { engine, signal } }: Making,
): Promise<Made> {
  const find = async () => (await folder.points()).points.find((point) => point.id === id);
  for (;;) {
    const who = await folder.changer();
    if (who !== null) engine.log.info({ vm: folder.name, who }, 'waiting for somebody else');
    await until(async () => ((await folder.changer()) === null ? true : undefined), {
      what: 'whoever changes the points of this VM',
      timeoutMs,
      everyMs: POLL_MS,
      signal,
      code: 'vault-locked',
    });
    const point = await find();
    if (point !== undefined) {
      engine.log.info({ point: point.id }, 'it was made before');
      return { point, warnings: [] };
    }
    try {
      return await make();
    } catch (error) {
      // Between our look and our run somebody else may have begun, or have ended with this very point.
      const isTaken = ['vm-busy', 'vault-locked', 'point-exists'].includes(codeOf(error));
      if (!isTaken) throw error;
      if ((await find()) === undefined && (await folder.changer()) === null) throw error;
    }
  }
}
