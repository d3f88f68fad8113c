/** The older callers' own way to free a point before it is deleted: its child is put on what it stands on. */
import { QmpvaultError } from '../base/errors.ts';
import type { RebaseCall } from './call.ts';
import { inRepository } from './repository.ts';
import type { Site } from './site.ts';

const WAIT_MS = 6 * 3_600_000;

/** They ask for each disk; a point stands on one other with all of them, so the first call moves all. */
export async function rebase({ repository, target, backing }: RebaseCall, site: Site): Promise<string> {
  await inRepository(repository, site, async (vault) => {
    const folder = (await vault.open()).vm(target.vm);
    const { points } = await folder.points();
    for (const { point, file } of [target, backing]) {
      const disks = points.find(({ id }) => id === point)?.disks;
      if (disks?.some((disk) => disk.file === file)) continue;
      throw new QmpvaultError('point-unknown', `${target.vm}/${point}/${file} is no file of a restore point`);
    }
    await site.ask('rebase', {
      vault: vault.path,
      vm: target.vm,
      point: target.point,
      onto: backing.point,
      waitMs: WAIT_MS,
    });
  });
  return '';
}
