/** One restore point: its disks, what it stands on, how it was made. */
import { z } from 'zod';
import { messageOf } from '../base/errors.ts';
import { selectPoint } from '../restore/restore-plan.ts';
import { vmParam } from '../rpc/params.ts';
import { ancestors } from '../vault/chain.ts';
import type { Manifest } from '../vault/manifest.ts';
import { knownVm } from './known-vm.ts';
import { type OperationContext, openVault, selectorOrLatest, vaultParam } from './operation.ts';
import { pointDetailsJson } from './point-json.ts';

export const params = z.strictObject({ vault: vaultParam, vm: vmParam, point: selectorOrLatest });

/** @returns `chain`: from the full to the point; broken, that is no reason not to show the point @throws point-unknown, … */
export async function run(
  { vault, vm, point: selector }: z.output<typeof params>,
  context: OperationContext,
) {
  const listing = await (await knownVm(await openVault(vault, context), vm)).points();
  const point = selectPoint(listing, selector);
  return { point: pointDetailsJson(point), ...chainOf([...listing.points, ...listing.going], point) };
}

function chainOf(points: readonly Manifest[], point: Manifest): { chain: string[]; chainTrouble?: string } {
  try {
    return { chain: [point, ...ancestors(points, point.id)].map(({ id }) => id).toReversed() };
  } catch (error) {
    return { chain: [], chainTrouble: messageOf(error) };
  }
}
