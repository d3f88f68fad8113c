/**
 * Brings a restore point back: every disk of it, or some, as independent images. Needs neither the VM nor the
 * daemon. Everything that can be refused is refused before the first byte is written; and the files appear under
 * their names together at the end, each of them durable, or not at all.
 */
import { dirname } from 'node:path';
import { CleanupStack } from '../base/cleanup-stack.ts';
import { codeOf, errnoOf, errorJson, messageOf, QmpvaultError } from '../base/errors.ts';
import type { DiskName } from '../base/ids.ts';
import { MiB } from '../base/units.ts';
import { convertImage, measureImage } from '../image/qemu-img.ts';
import type { QemuTools } from '../image/tools.ts';
import type { Vault } from '../vault/vault.ts';
import { OpenPoint } from './open-point.ts';
import { type DiskPlan, planRestore, type RestoreRequest } from './restore-plan.ts';
import { makeFolder, surveyTarget, Target, type TargetSite, targetError } from './target.ts';
import { haveRoom, type Need, oversize, refuseTooSmall } from './target-space.ts';
import { trackFrom } from './tracking.ts';

export interface RestoreProgress {
  readonly disks: readonly {
    readonly name: DiskName;
    readonly fraction: number;
    readonly totalBytes: number;
  }[];
}

export interface RestoreControl {
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: RestoreProgress) => void) | undefined;
}

export interface RestoreResult {
  readonly restored: readonly {
    readonly disk: DiskName;
    readonly path: string;
    readonly virtualSizeBytes: number;
  }[];
  readonly warnings: readonly string[];
}

/** How often what was copied is made durable, while more is. */
const FLUSH_MS = 1_000;
/** 8 bytes of an L2 table and 2 of a refcount for each cluster of 64 KiB, and some. */
const TABLES_SHARE = 4_096;

/** A disk's plan after everything that it names was looked at. */
interface Job extends DiskPlan, Need {
  readonly source: string;
}

/**
 * @throws vm-unknown, point-unknown, disk-unknown, usage, target-exists, target-unfit, link-refused, image-invalid,
 *   manifest-invalid, vault-locked, vault-unreadable: nothing was written
 * @throws cancelled, image-tool-failed, restore-failed, sync-failed, lease-lost: no file appeared; a block device
 *   may be half written, and then the message says so
 */
export async function restorePoint(
  tools: QemuTools,
  vault: Vault,
  request: RestoreRequest,
  control: RestoreControl = {},
): Promise<RestoreResult> {
  const { signal } = control;
  await using open = await OpenPoint.open(vault, request, { what: 'a restore', signal });
  const plans = planRestore(open.listing, open.point, request);
  return await restoreDisks(tools, vault, open, plans, { ...control, force: request.force ?? false });
}

interface WriteOptions extends RestoreControl {
  readonly force: boolean;
  /** All was looked at, and nothing was made yet. */
  readonly begin?: (sites: readonly TargetSite[]) => Promise<void>;
  /** Gives all of them their names. */
  readonly publish?: (targets: readonly Target[]) => Promise<void>;
}

/** @throws as restorePoint */
export async function restoreDisks(
  tools: QemuTools,
  vault: Vault,
  open: OpenPoint,
  plans: readonly DiskPlan[],
  options: WriteOptions,
): Promise<RestoreResult> {
  const jobs = await prepare(tools, vault, await open.check(plans), options);
  await options.begin?.(jobs.map(({ site }) => site));
  const untracked = await write(tools, jobs, open, options);
  return {
    restored: jobs.map(({ disk, target, virtualSizeBytes }) => ({ disk, path: target, virtualSizeBytes })),
    warnings: [...open.warnings, ...untracked, ...jobs.flatMap((job) => oversize(job) ?? [])],
  };
}

async function prepare(
  tools: QemuTools,
  vault: Vault,
  plans: readonly (DiskPlan & { readonly source: string })[],
  { force, signal }: WriteOptions,
): Promise<Job[]> {
  const jobs: Job[] = [];
  for (const plan of plans) {
    const site = await surveyTarget(tools, { path: plan.target, force, vaultPath: vault.path });
    jobs.push({ ...plan, site, requiredBytes: mostBytes(plan) });
  }
  // To measure a long chain takes as long as to open it twice; where the most that it can be has room, that is enough. Not for
  // a device, of which nothing comes back: measuring finds tables that cannot be read before anything is written.
  const isFile = ({ site }: Job) => site.device === null;
  if (jobs.every(isFile) && (await haveRoom(jobs))) return jobs;
  const measured: Job[] = [];
  for (const job of jobs) {
    measured.push({
      ...job,
      ...(await measureImage(tools, { path: job.source, format: 'qcow2' }, { signal })),
    });
  }
  await refuseTooSmall(measured);
  return measured;
}

/** What a copy takes at most: all that its images hold, and the tables of a qcow2 of its size. */
function mostBytes({ layers, virtualSizeBytes }: DiskPlan): number {
  const held = layers.reduce((sum, { storedBytes }) => sum + (storedBytes ?? Number.POSITIVE_INFINITY), 0);
  return held + virtualSizeBytes / TABLES_SHARE + MiB;
}

/** @returns warnings */
async function write(
  tools: QemuTools,
  jobs: readonly Job[],
  { point, reader }: OpenPoint,
  { signal, onProgress, publish = publishEach }: WriteOptions,
): Promise<string[]> {
  const undo = new CleanupStack();
  const fractions = jobs.map(() => 0);
  const tell = () =>
    onProgress?.({
      disks: jobs.map(({ disk, virtualSizeBytes }, i) => ({
        name: disk,
        fraction: fractions[i] ?? 0,
        totalBytes: virtualSizeBytes,
      })),
    });
  const targets: Target[] = [];
  const warnings: string[] = [];
  try {
    for (const [i, job] of jobs.entries()) {
      const folder = dirname(job.site.realPath);
      undo.add(`the folder ${folder}`, await makeFolder(folder));
      const target = await Target.open(job.site);
      targets.push(target);
      undo.add(`the unfinished ${job.target}`, () => target.discard());
      const onFraction = (fraction: number) => {
        fractions[i] = fraction;
        tell();
      };
      tell();
      const flushing = setInterval(() => target.flush(), FLUSH_MS);
      const made = copy(tools, job, target, { signal, onProgress: onFraction }).finally(() => {
        clearInterval(flushing);
      });
      // Whoever waits for it is told.
      made.catch(() => {});
      if (job.format === 'qcow2') {
        warnings.push(...(await trackFrom(tools, point, { disk: job.disk, path: target.writePath, made })));
      }
      await made;
      await target.sync();
      onFraction(1);
    }
    await reader.assertRegistered();
    await publish(targets);
    return warnings;
  } catch (error) {
    // What cannot be undone is on a filesystem that fails already; the first error says more.
    await undo.close().catch(() => {});
    throw withHalfWritten(error, targets);
  }
}

async function publishEach(targets: readonly Target[]): Promise<void> {
  for (const target of targets) await target.publish();
}

async function copy(
  tools: QemuTools,
  { source, disk, site, format }: Job,
  { writePath }: Target,
  options: { signal: AbortSignal | undefined; onProgress: (fraction: number) => void },
): Promise<void> {
  // A raw device is written over: made anew it would be taken for empty, and keep what it held under the zeroes.
  // The header of a qcow2 is made anew also on a device.
  const targetExists = site.device !== null && format === 'raw';
  const image = { source, sourceFormat: 'qcow2', target: writePath, targetFormat: format, targetExists };
  try {
    await convertImage(tools, image, options);
  } catch (error) {
    throw errnoOf(error) === 'ENOSPC' ? targetError(error, `restoring ${disk} to`, site.path) : error;
  }
}

function withHalfWritten(error: unknown, targets: readonly Target[]): unknown {
  const devices = targets.flatMap(({ site }) => (site.device === null ? [] : [site.path]));
  if (devices.length === 0) return error;
  return new QmpvaultError(
    codeOf(error),
    `${messageOf(error)}. Not complete, and not what it held before: ${devices.join(', ')}.`,
    { details: { ...errorJson(error).details, devices }, cause: error },
  );
}
