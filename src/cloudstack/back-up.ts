/** A backup as the caller asks for it, put into the engine's words. */
import { until } from '../base/deadline.ts';
import { codeOf, QmpvaultError } from '../base/errors.ts';
import type { Params } from '../operations/index.ts';
import { imageName } from '../vm/disks.ts';
import { backupAnswer, type StoredPoint } from './answer.ts';
import { type BackupCall, pointFile } from './call.ts';
import { domainFiles } from './domain-file.ts';
import { findInstance } from './find-instance.ts';
import { inRepository, type RepositoryVault } from './repository.ts';
import type { Site } from './site.ts';

const FILES = ['root.{disk}.qcow2', 'datadisk.{disk}.qcow2'];
const FULL_EVERY = 10;
/** A caller that asks for the same backup again waits for the first; longer than any caller's own patience. */
const WAIT_MS = 24 * 3_600_000;
const POLL_MS = 1_000;

/** @returns what goes to stdout */
export async function backUp(call: BackupCall, site: Site): Promise<string> {
  return inRepository(call.repository, site, async (repository) => {
    const point = await pointFor(call, repository, site);
    return backupAnswer(point, call.mode);
  });
}

/** Asked for again, it is not made again: whether it was made before, is being made, or is made by this call. */
async function pointFor(call: BackupCall, repository: RepositoryVault, site: Site): Promise<StoredPoint> {
  const vault = await repository.openOrMake();
  const folder = vault.vm(call.path.vm);
  for (;;) {
    const who = await folder.changer();
    if (who !== null) site.engine.log.info({ vm: folder.name, who }, 'waiting for somebody else');
    await until(async () => ((await folder.changer()) === null ? true : undefined), {
      what: 'whoever changes the points of this VM',
      timeoutMs: WAIT_MS,
      everyMs: POLL_MS,
      signal: site.signal,
      code: 'vault-locked',
    });
    const made = (await folder.points()).points.find(({ id }) => id === call.path.point);
    if (made !== undefined) {
      site.engine.log.info({ point: made.id }, 'it was made before');
      return made;
    }
    try {
      const params = await paramsOf(call, repository.path, site);
      if (params.qmp === undefined && params.images === undefined && (await folder.readRecord()) === null) {
        throw unknown(call.instance);
      }
      const { point, warnings } = await site.ask('backup', params);
      for (const warning of warnings) site.engine.log.warn({ point: point.id }, warning);
      return point;
    } catch (error) {
      // Between our look and our run somebody else may have begun, or have ended with this very point.
      const isTaken = ['vm-busy', 'vault-locked', 'point-exists'].includes(codeOf(error));
      if (!isTaken) throw error;
      const isMade = (await folder.points()).points.some(({ id }) => id === call.path.point);
      if (!isMade && (await folder.changer()) === null) throw error;
    }
  }
}

function unknown(instance: string): QmpvaultError {
  return new QmpvaultError(
    'vm-unknown',
    `no QEMU called ${instance} runs on this host, no images are named with -d, and the repository remembers none`,
    { details: { vm: instance } },
  );
}

async function paramsOf(call: BackupCall, vault: string, site: Site): Promise<Params<'backup'>> {
  const { qmp, agent } = await findInstance(call.instance, site);
  if (call.quiesce && qmp !== undefined && agent === undefined) {
    site.engine.log.warn(
      { vm: call.instance },
      'no guest agent that qmpvault may use: nothing will be frozen',
    );
  }
  const { path, images, quiesceTimeoutMs: freezeMs, bandwidth, bitmapNew } = call;
  return {
    vault,
    vm: path.vm,
    point: path.point,
    naming: 'image',
    files: FILES,
    ...(qmp && { qmp }),
    ...(agent && { agent }),
    ...(images.length > 0 && { images: imagesOf(images), onlyImages: true }),
    quiesce: call.quiesce ? 'auto' : 'off',
    ...(freezeMs && { freezeMs }),
    ...(bandwidth && { bandwidth }),
    ...(bitmapNew && { bitmapAlias: bitmapNew }),
    beside: await domainFiles(call.instance),
    ...chainOf(call, site),
  };
}

/** What the point stands on. The caller's mode decides; what does not fit becomes a full in the engine. */
function chainOf(call: BackupCall, site: Site): Pick<Params<'backup'>, 'full' | 'fullEvery' | 'parent'> {
  if (call.mode === 'auto') return { fullEvery: call.fullEvery ?? FULL_EVERY };
  if (call.mode !== 'incremental') return { full: true };
  const parent = parentOf(call);
  if (parent === null) {
    site.engine.log.warn(
      { parentPaths: call.parentPaths },
      'these are not the files of one point: a full is made',
    );
    return { full: true };
  }
  return {
    parent: { point: parent, bitmapAlias: call.bitmapParent },
    // The caller counts.
    fullEvery: call.fullEvery ?? Number.MAX_SAFE_INTEGER,
  };
}

/**
 * The one point that the named files are of; null when there is none. Which of them is which disk's, the point's manifest
 * says and not their order.
 */
export function parentOf({ parentPaths, path }: Pick<BackupCall, 'parentPaths' | 'path'>): string | null {
  const points = new Set<string>();
  for (const text of parentPaths) {
    try {
      const { vm, point } = pointFile(text);
      if (vm !== path.vm) return null;
      points.add(point);
    } catch {
      return null;
    }
  }
  const [point, ...others] = points;
  return point === undefined || others.length > 0 ? null : point;
}

/** In the order of the devices, which the files' names follow. */
function imagesOf(paths: readonly string[]): Record<string, string> {
  const images = new Map<string, string>();
  for (const path of paths) {
    if (!path.startsWith('/')) {
      throw new QmpvaultError(
        'vm-unfit',
        `${path} is no file or block device: only those can be backed up while the VM is stopped`,
      );
    }
    const name = imageName(path);
    images.set(images.has(name) ? `${name}@${images.size}` : name, path);
  }
  return Object.fromEntries(images);
}
