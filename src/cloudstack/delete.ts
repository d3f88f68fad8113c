/** Deleting a backup: asked for again, or of what never was, it is done. */
import { lstat } from 'node:fs/promises';
import { join } from 'node:path';
import { codeOf, errnoOf, QmpvaultError } from '../base/errors.ts';
import type { DeleteCall } from './call.ts';
import { inRepository } from './repository.ts';
import type { Site } from './site.ts';

/** For a backup or a restore that is under way. */
const WAIT_MS = 6 * 3_600_000;

/** Points that need it are kept whole. @returns what goes to stdout */
export async function remove({ repository, path }: DeleteCall, site: Site): Promise<string> {
  const { vm, point } = path;
  await inRepository(repository, site, async (vault) => {
    if (!(await exists(join(vault.path, vm, point)))) {
      site.engine.log.info({ vm, point }, 'there is no such backup: nothing to delete');
      return;
    }
    // One that the original made stands in a repository that was no vault so far.
    await vault.openOrMake();
    try {
      const params = {
        vault: vault.path,
        vm,
        point,
        exact: true,
        descendants: 'keep',
        waitMs: WAIT_MS,
      } as const;
      const { freedBytes } = await site.ask('delete', params);
      site.engine.log.info({ vm, point, freedBytes }, 'deleted');
    } catch (error) {
      if (codeOf(error) !== 'point-unknown') throw error;
      site.engine.log.info({ vm, point }, 'somebody else has deleted it');
    }
  });
  return '';
}

async function exists(path: string): Promise<boolean> {
  try {
    await lstat(path);
    return true;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ENOTDIR') return false;
    throw new QmpvaultError('vault-unreadable', `${path} cannot be looked at`, { cause: error });
  }
}
