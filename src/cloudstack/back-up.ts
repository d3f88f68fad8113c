/** A backup as the caller asks for it, put into the engine's words. */
import { QmpvaultError } from '../base/errors.ts';
import { type Params, perform } from '../operations/index.ts';
import type { MethodParams } from '../rpc/methods.ts';
import type { Share } from '../rpc/share.ts';
import { imageName } from '../vm/disks.ts';
import { backupAnswer } from './answer.ts';
import { type BackupCall, pointFile } from './call.ts';
import { socketsOf } from './configured.ts';
import { byDaemonOr } from './daemon.ts';
import { domainFiles } from './domain-file.ts';
import type { Site } from './site.ts';

const FILES = ['root.{disk}.qcow2', 'datadisk.{disk}.qcow2'];
const FULL_EVERY = 10;
/** A caller that asks for the same backup again waits for the first; longer than any caller's own patience. */
const AGAIN_MS = 24 * 3_600_000;

/** @returns what goes to stdout */
export async function backUp(call: BackupCall, site: Site): Promise<string> {
  const wish = await wishOf(call, site);
  const { point, warnings } = await byDaemonOr('backup', wish, site, async () =>
    perform('backup', { ...wish, ...(await socketsOf(call.instance, site)) }, site),
  );
  for (const warning of warnings) site.engine.log.warn({ point: point.id }, warning);
  return backupAnswer(point, call.mode);
}

async function wishOf(
  call: BackupCall,
  site: Site,
): Promise<MethodParams<'share.backup'> & { vault: Share }> {
  const { path, images, quiesceTimeoutMs: freezeMs, bandwidth, bitmapNew, repository, instance } = call;
  return {
    vault: repository,
    init: true,
    vm: path.vm,
    point: path.point,
    againMs: AGAIN_MS,
    instance,
    naming: 'image',
    files: FILES,
    ...(images.length > 0 && { images: imagesOf(images), onlyImages: true }),
    quiesce: call.quiesce ? 'auto' : 'off',
    ...(freezeMs && { freezeMs }),
    ...(bandwidth && { bandwidth }),
    ...(bitmapNew && { bitmapAlias: bitmapNew }),
    beside: await domainFiles(instance),
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
