/** The older callers' own way to free a point before it is deleted: its child is put on what it stands on. */
import { QmpvaultError } from '../base/errors.ts';
import { perform } from '../operations/index.ts';
import { onShare } from '../operations/share.ts';
import type { RebaseCall } from './call.ts';
import type { Site } from './site.ts';

const WAIT_MS = 6 * 3_600_000;

/** They ask for each disk; a point stands on one other with all of them, so the first call moves all. */
export async function rebase({ repository, target, backing }: RebaseCall, site: Site): Promise<string> {
  const { vm } = target;
  await onShare(repository, site, async (vault, context) => {
    const { points } = await perform('list', { vault, vm }, context);
    for (const { point, file } of [target, backing]) {
      const disks = points.find(({ id }) => id === point)?.disks;
      if (disks?.some((disk) => disk.file === file)) continue;
      throw new QmpvaultError('point-unknown', `${vm}/${point}/${file} is no file of a restore point`);
    }
    const wish = { vault, vm, point: target.point, onto: backing.point, waitMs: WAIT_MS };
    await perform('rebase', wish, context);
  });
  return '';
}
