/** Backups to which something happens, and what the model then no longer knows. */
import { codeOf } from '../../src/base/errors.ts';
import type { PointId } from '../../src/base/ids.ts';
import type { Step } from '../../src/base/steps.ts';
import { backUpRunning, type Special, vaultOf, type Wishes } from './backing-up.ts';
import type { Outcome } from './kind.ts';
import { Tally } from './tally.ts';
import type { ModelVault, World } from './world.ts';

/** Where the host is too busy to clear up in time, that is said. */
const LEFT = /the next command tries again|the staging folder failed/;

/** A backup that may fail, but only so. @returns the error */
export async function attempt(
  world: World,
  wishes: Wishes,
  codes: readonly string[],
  special: Special,
): Promise<unknown> {
  try {
    await backUpRunning(world, wishes, special);
    return null;
  } catch (error) {
    if (!codes.includes(codeOf(error))) throw error;
    Tally.count(world.tally.ends, codeOf(error));
    const left = world.warnings.filter((warning) => LEFT.test(warning));
    if (left.length > 0) vaultOf(world, wishes.vault).isUnsettled = true;
    for (const warning of left) Tally.count(world.tally.ends, warning.replace(/[0-9a-f]{8}|\/\S+/g, '…'));
    return error;
  }
}

/** A command died that was removing these. */
export function doubt(model: ModelVault, removes: readonly PointId[]): void {
  model.isUnsettled = true;
  for (const id of removes) model.doubtful.add(id);
}

export function firedAt(world: World, step: Step, fired: boolean): Outcome {
  if (fired) Tally.count(world.tally.steps, step);
  return fired ? 'done' : 'passed';
}
