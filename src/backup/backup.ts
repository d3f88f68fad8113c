/** A backup as its caller sees it: connect, clean up after the dead, look, run. */
import { codeOf } from '../base/errors.ts';
import type { Vault } from '../vault/vault.ts';
import { Vm } from '../vm/vm.ts';
import type { BackupRequest, BackupResult, Engine, RunControl } from './engine.ts';
import { digestFulls } from './publish.ts';
import { reconcile } from './release.ts';
import { Run } from './run.ts';
import { survey } from './survey.ts';

/**
 * Makes one restore point of a VM. After an error the VM and the vault are as before; what could not be undone
 * stands in the journal and is undone by the next run.
 * @throws codes of the rows 4, 5 and 6 of the exit code table, `vm-uuid`, `disk-unknown`, `cancelled`
 */
export async function backUp(
  engine: Engine,
  vault: Vault,
  request: BackupRequest,
  control: RunControl,
): Promise<BackupResult> {
  const beganMs = performance.now();
  const { signal } = control;
  const folder = vault.vm(request.vm);
  await using vm = await Vm.connect(request.qmp, { signal });
  await using lease = await folder.acquireLease({
    what: `a backup of ${request.vm}`,
    ...(signal && { signal }),
  });
  const warnings = await reconcile(engine, vm, folder, lease);
  await vm.refuseWhileMoving();
  const found = await survey(vm, folder, request);
  engine.log.info(
    { vm: request.vm, how: found.plan.how, why: found.plan.why },
    `next is a ${found.plan.kind}`,
  );
  const run = new Run({ engine, vault, folder, lease, vm, request, control, survey: found, beganMs });
  let point: BackupResult['point'];
  try {
    point = await run.make();
  } finally {
    for (const warning of [...warnings, ...run.warnings]) engine.log.warn({ vm: request.vm }, warning);
  }
  warnings.push(...found.warnings, ...run.warnings);
  // The VM is no longer needed: somebody else may have its socket.
  await vm.close();
  try {
    point = await digestFulls(folder, lease, point, control);
  } catch (error) {
    if (codeOf(error) !== 'cancelled') throw error;
    warnings.push(`cancelled while reading ${point.id} back: it is published, its digests are pending`);
  }
  return { point, warnings };
}
