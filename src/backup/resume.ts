/** A request that is repeated because the engine that had begun it died. */
import type { Manifest } from '../vault/manifest.ts';
import type { VmFolder } from '../vault/vm-folder.ts';
import type { BackupRequest } from './engine.ts';

/**
 * Its result, if it has one already.
 * @param ofDeadRuns the points of runs whose engines died, newest last
 */
export async function begunBefore(
  folder: VmFolder,
  { resume, point }: BackupRequest,
  ofDeadRuns: readonly Manifest[],
): Promise<Manifest | null> {
  if (!resume) return null;
  if (point === undefined) return ofDeadRuns.at(-1) ?? null;
  const { points } = await folder.points();
  return points.find(({ id }) => id === point) ?? null;
}
