/** Deleting a backup: asked for again, or of what never was, it is done. */
import { codeOf } from '../base/errors.ts';
import { perform } from '../operations/index.ts';
import type { DeleteCall } from './call.ts';
import { byDaemonOr } from './daemon.ts';
import type { Site } from './site.ts';

/** For a backup or a restore that is under way. */
const WAIT_MS = 6 * 3_600_000;

/** Points that need it are kept whole. @returns what goes to stdout */
export async function remove({ repository, path }: DeleteCall, site: Site): Promise<string> {
  const wish = {
    vault: repository,
    // One that the original made stands in a repository that was no vault so far.
    init: true,
    ...path,
    exact: true,
    descendants: 'keep',
    waitMs: WAIT_MS,
  } as const;
  try {
    const { freedBytes } = await byDaemonOr('delete', wish, site, () => perform('delete', wish, site));
    site.engine.log.info({ ...path, freedBytes }, 'deleted');
  } catch (error) {
    if (codeOf(error) !== 'point-unknown') throw error;
    site.engine.log.info(path, 'there is no such backup: nothing to delete');
  }
  return '';
}
