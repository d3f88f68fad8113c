/** A backup as its caller sees it: find the VM, finish or clean up what the dead left, look, run. */
import { codeOf, messageOf } from '../base/errors.ts';
import type { Manifest } from '../vault/manifest.ts';
import type { Vault } from '../vault/vault.ts';
import { Vm } from '../vm/vm.ts';
import { newRun } from './begin.ts';
import { surveyWhenFree } from './busy-bitmaps.ts';
import { capabilityMemory } from './capability-memory.ts';
import type { BackupRequest, BackupResult, Engine, RunControl } from './engine.ts';
import { findVm } from './find-vm.ts';
import { digestFulls } from './publish.ts';
import { finishDeadRun } from './rejoin.ts';
import { freeFromDeadRuns, reconcile } from './release.ts';
import { begunBefore } from './resume.ts';
import type { RunContext } from './run.ts';
import { sealDamaged } from './seal-damaged.ts';
import { backUpStopped } from './stopped.ts';
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
  if (request.qmp !== undefined) await freeFromDeadRuns(engine, request.qmp, signal);
  const found = await findVm(folder, request, { signal, memory: capabilityMemory(engine) });
  if (!(found instanceof Vm)) {
    return backUpStopped({ engine, vault, folder, stopped: found, request, control, beganMs });
  }
  await using vm = found;
  await using lease = await folder.acquireLease({
    what: `a backup of ${request.vm}`,
    ...(signal && { signal }),
  });
  const context = { engine, vault, folder, lease, vm, request, control, beganMs };
  const dead = await reconcile(context, (record, points) => finishDeadRun(context, record, points));
  const warnings = [...dead.warnings];
  const begun = await begunBefore(folder, request, dead.points);
  const made = begun ?? (await makePoint(context, warnings));
  // The VM is no longer needed: somebody else may have its socket.
  await vm.close();
  const point = await digestFulls(context, made, warnings);
  const last = dead.points.at(-1);
  const adopted =
    last === undefined ? null : last.id === point.id ? point : await digestFulls(context, last, warnings);
  return { point, adopted, warnings };
}

async function makePoint(context: RunContext, warnings: string[]): Promise<Manifest> {
  await context.vm.refuseWhileMoving();
  return attempt(context, warnings).catch(async (error: unknown) => {
    // Whether the VM's NBD server is free shows itself only when it is started.
    if (codeOf(error) !== 'vm-nbd-taken') throw error;
    return attempt(context, warnings, messageOf(error));
  });
}

async function attempt(context: RunContext, warnings: string[], resyncTrouble?: string): Promise<Manifest> {
  const { engine, vm, folder, request } = context;
  const { signal } = context.control;
  const look = () => survey(vm, folder, { ...request, resyncTrouble });
  const found = await surveyWhenFree(vm, look, { signal, timeoutMs: request.busyTimeoutMs });
  engine.log.info(
    { vm: request.vm, how: found.plan.how, why: found.plan.why },
    `next is a ${found.plan.kind}`,
  );
  warnings.push(...found.warnings, ...(await sealDamaged(context, found)));
  const { run, start } = newRun(context, found);
  try {
    const point = await run.make(start);
    warnings.push(...run.warnings);
    return point;
  } catch (error) {
    // The caller gets the error; what else happened is in the log.
    for (const warning of run.warnings) engine.log.warn({ vm: request.vm }, warning);
    throw error;
  }
}
