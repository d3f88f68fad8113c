/** Keeping damage from growing. */
import type { RunContext } from './run.ts';
import type { Survey } from './survey.ts';

/**
 * What is put on top of a damaged point is lost with it: nothing more shall be, also once the damage is forgotten.
 * @returns warnings
 */
export async function sealDamaged(
  { folder, lease }: Pick<RunContext, 'folder' | 'lease'>,
  { points, damaged }: Pick<Survey, 'points' | 'damaged'>,
): Promise<string[]> {
  const found = points.filter(({ id, sealed }) => damaged.has(id) && !sealed);
  for (const point of found) await folder.replaceManifest({ ...point, sealed: true }, lease);
  return found.map(
    ({ id }) => `${damaged.get(id)}: ${id} is sealed, and what stands on it cannot be restored`,
  );
}
