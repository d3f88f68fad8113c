/**
 * An instant restore copies nothing: a local overlay for each disk stands on the file of the point, and a VM can boot
 * from it at once. As long as it stands there the point must stay as it is, whoever is running: a hold in the vault
 * says so, and is durable before the overlays appear under their names. `fill` ends it.
 */
import { dirname } from 'node:path';
import { CleanupStack } from '../base/cleanup-stack.ts';
import { QmpvaultError } from '../base/errors.ts';
import type { ReachStep } from '../base/steps.ts';
import { createImage } from '../image/qemu-img.ts';
import type { QemuTools } from '../image/tools.ts';
import type { Manifest } from '../vault/manifest.ts';
import type { Vault } from '../vault/vault.ts';
import type { VmFolder } from '../vault/vm-folder.ts';
import { releaseReplaced } from './holds.ts';
import { OpenPoint } from './open-point.ts';
import type { RestoreResult } from './restore.ts';
import { type DiskPlan, planRestore, type RestoreRequest } from './restore-plan.ts';
import { makeFolder, surveyTarget, Target, type TargetSite, unfit } from './target.ts';
import { trackFrom } from './tracking.ts';

export interface InstantEngine {
  readonly tools: QemuTools;
  readonly reachStep: ReachStep;
}

export interface InstantResult extends RestoreResult {
  /** Of the hold that keeps the point as it is. */
  readonly hold: string;
}

/** A change that is under way, or that a dead process left, takes no longer than that. */
const CHANGE_MS = 30_000;

/**
 * @throws as restorePoint; vault-full, vault-unreadable when the vault cannot be written: nobody would know then that
 *   the point is needed
 */
export async function restoreInstantly(
  { tools, reachStep }: InstantEngine,
  vault: Vault,
  request: Omit<RestoreRequest, 'format'>,
  { signal }: { signal?: AbortSignal | undefined } = {},
): Promise<InstantResult> {
  const folder = vault.vm(request.vm);
  await finishChange(folder, signal);
  await using open = await OpenPoint.open(vault, request, { what: 'an instant restore', signal });
  const { vm, point, listing, reader } = open;
  await refuseOpenChange(vm);
  const disks = await open.check(planRestore(listing, point, { ...request, format: 'qcow2' }));
  const jobs: { site: TargetSite; disk: DiskPlan & { readonly source: string } }[] = [];
  for (const disk of disks) jobs.push({ disk, site: await survey(tools, vault, disk.target, request.force) });

  const before = await vm.holds();
  const undo = new CleanupStack();
  try {
    await reachStep('instant-hold');
    const names = jobs.map(({ disk, site }) => ({ name: disk.disk, path: site.realPath }));
    const hold = await vm.addHold({ point: point.id, what: 'instant restore', disks: names });
    undo.add('the hold', () => vm.releaseHold(hold));
    const targets: Target[] = [];
    for (const { site } of jobs) {
      undo.add(`the folder of ${site.path}`, await makeFolder(dirname(site.realPath)));
      const target = await Target.open(site);
      targets.push(target);
      undo.add(`the unfinished ${site.path}`, () => target.discard());
    }
    const made = jobs.map(({ disk }, i) => makeOverlay(tools, disk, point, targets[i] as Target, signal));
    const warnings = (await Promise.all(made)).flat();
    await reader.assertRegistered();
    await reachStep('instant-publish');
    for (const target of targets) await target.publish();
    await releaseReplaced(
      vm,
      before,
      hold.disks.map(({ path }) => path),
    );
    return {
      restored: disks.map(({ disk, target, virtualSizeBytes }) => ({ disk, path: target, virtualSizeBytes })),
      hold: hold.id,
      warnings: [...open.warnings, ...warnings],
    };
  } catch (error) {
    // What cannot be undone is on a filesystem that fails already; the first error says more.
    await undo.close().catch(() => {});
    throw error;
  }
}

async function makeOverlay(
  tools: QemuTools,
  { disk, source, virtualSizeBytes }: DiskPlan & { readonly source: string },
  point: Manifest,
  target: Target,
  signal: AbortSignal | undefined,
): Promise<string[]> {
  const path = target.writePath;
  const backing = { link: source, format: 'qcow2' };
  await createImage(tools, { path, format: 'qcow2', sizeBytes: virtualSizeBytes, backing }, { signal });
  const warnings = await trackFrom(tools, point, { disk, path });
  await target.sync();
  return warnings;
}

/** Whoever takes the lease finishes what a dead process left. */
async function finishChange(vm: VmFolder, signal: AbortSignal | undefined): Promise<void> {
  if (!(await vm.exists()) || (await vm.readChange()) === null) return;
  const what = 'finishing a change before an instant restore';
  await using _lease = await vm.acquireLease({ what, waitMs: CHANGE_MS, signal });
}

async function refuseOpenChange(vm: VmFolder): Promise<void> {
  if ((await vm.readChange()) === null) return;
  throw new QmpvaultError('vault-locked', `the points of ${vm.name} are being changed: repeat in a moment`, {
    details: { vm: vm.name },
  });
}

async function survey(tools: QemuTools, vault: Vault, path: string, force = false): Promise<TargetSite> {
  const site = await surveyTarget(tools, { path, force, vaultPath: vault.path });
  if (site.device === null) return site;
  throw unfit(path, 'is a block device, and an overlay is a file: restore to the device without --instant');
}
