/** An engine for upkeep, and what tests of it ask of every point that is left. */
import { join } from 'node:path';
import type { Test } from 'tap';
import { silent } from '../../src/base/log.ts';
import { noSteps, type ReachStep } from '../../src/base/steps.ts';
import { type QemuTools, qemuTools } from '../../src/image/tools.ts';
import type { UpkeepEngine } from '../../src/upkeep/engine.ts';
import type { VmFolder } from '../../src/vault/vm-folder.ts';
import { contentsOf, type HandMadeVault } from './hand-made-vault.ts';
import { tempDir } from './temp-dir.ts';

export function upkeepEngine(
  t: Test,
  { tools = qemuTools(), steps = noSteps }: { tools?: QemuTools; steps?: ReachStep } = {},
): UpkeepEngine {
  return { runtimeDir: tempDir(t), tools, log: silent, reachStep: steps };
}

/** Every disk of every point reads as it did when the point was made. */
export async function assertAllPoints(t: Test, made: HandMadeVault, vm: VmFolder): Promise<void> {
  const { points, broken } = await vm.points();
  t.strictSame(broken, [], 'every manifest can be read');
  for (const { id, disks } of points) {
    for (const { name, file } of disks) {
      const contents = await contentsOf(t, join(vm.path, id, file), 'qcow2');
      t.ok(contents.equals(made.truth(id, name)), `${name} of ${id}`);
    }
  }
}
