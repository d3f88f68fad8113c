import { Argument, type Command } from 'commander';
import { messageOf } from '../../base/errors.ts';
import type { VmName } from '../../base/ids.ts';
import { selectPoint } from '../../restore/restore-plan.ts';
import { ancestors } from '../../vault/chain.ts';
import type { Manifest } from '../../vault/manifest.ts';
import { vaultOption, vmArgument } from '../options.ts';
import { pointJson } from '../point-json.ts';
import { pointDetails } from '../point-text.ts';
import type { Shell } from '../shell.ts';

export function addShow(program: Command, shell: Shell): void {
  program
    .command('show')
    .description('show one restore point: its disks, its chain, how it was made')
    .addArgument(vmArgument())
    .addArgument(new Argument('<point>', "its id, a unique beginning of it, or 'latest'"))
    .addOption(vaultOption().makeOptionMandatory())
    .action(async (vm: VmName, selector: string, { vault: path }: { vault: string }) => {
      const listing = await (await shell.openVm(path, vm)).points();
      const point = selectPoint(listing, selector);
      await shell.output.result({
        json: { point: pointJson(point) },
        text: pointDetails(point, chainText([...listing.points, ...listing.going], point)),
      });
    });
}

/** From the full on. A broken chain is no reason not to show the point. */
function chainText(points: readonly Manifest[], point: Manifest): string {
  try {
    return [point, ...ancestors(points, point.id)]
      .map(({ id }) => id)
      .toReversed()
      .join(' <- ');
  } catch (error) {
    return messageOf(error);
  }
}
