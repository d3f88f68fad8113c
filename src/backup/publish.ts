/** From copied bytes to a restore point: synced by our own descriptors, checked, digested, named. */
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { QmpvaultError } from '../base/errors.ts';
import type { RunId } from '../base/ids.ts';
import { readQcow2Header } from '../image/qcow2-header.ts';
import { checkImage } from '../image/qemu-img.ts';
import type { QemuTools } from '../image/tools.ts';
import { sha256File, whyPending } from '../vault/digest.ts';
import { ioError } from '../vault/io-error.ts';
import type { Lease } from '../vault/lease.ts';
import { FORMAT, type Manifest, type ManifestDisk } from '../vault/manifest.ts';
import type { Staging } from '../vault/staging.ts';
import type { VmFolder } from '../vault/vm-folder.ts';
import type { VmRecord } from '../vault/vm-record.ts';
import { GRANULARITY_BYTES } from '../vm/bitmaps.ts';
import type { Moment } from '../vm/moment.ts';
import type { BackupRequest, RunControl } from './engine.ts';
import type { RunContext } from './run.ts';
import type { CopiedDisk } from './site.ts';
import type { Survey } from './survey.ts';
import { all } from './together.ts';

/** Also of a stopped VM. */
export type PublishContext = Pick<
  RunContext,
  'engine' | 'vault' | 'folder' | 'lease' | 'control' | 'beganMs'
> & { readonly vm: Pick<RunContext['vm'], 'uuid' | 'qemuVersion'> };

/** What a point was planned to be. */
export type PointFacts = Pick<Manifest, 'kind' | 'parent' | 'how' | 'why' | 'left' | 'bitmapAlias'> & {
  /** Texts to lie beside the images, by the names of their files. */
  readonly beside: Readonly<Record<string, string>>;
};

export interface Copied {
  /** By the disk's index. */
  readonly bytes: ReadonlyMap<number, number>;
  readonly copyMs: number;
}

export interface Unpublished {
  readonly run: RunId;
  readonly staging: Staging;
  readonly facts: PointFacts;
  readonly moment: Moment;
  readonly disks: readonly CopiedDisk[];
  readonly copied: Copied;
}

export function pointFacts(
  { plan, left }: Pick<Survey, 'plan' | 'left'>,
  { bitmapAlias, beside = new Map() }: Pick<BackupRequest, 'bitmapAlias' | 'beside'>,
): PointFacts {
  return {
    kind: plan.kind,
    parent: plan.kind === 'incremental' ? plan.parent.id : null,
    how: plan.how,
    why: plan.why,
    left: left.map(({ name, why }) => ({ name, why })),
    bitmapAlias,
    beside: Object.fromEntries(beside),
  };
}

/** What the closed files are, checked: beside the fsync, since both may take their time. @throws image-invalid, vault-away, … */
export async function describeFiles(
  { engine, vault, control: { signal } }: Pick<PublishContext, 'engine' | 'vault' | 'control'>,
  made: Unpublished,
): Promise<ManifestDisk[]> {
  // Of a NAS that went away qemu-img would say that its images are damaged.
  await vault.assertPresent();
  return Promise.all(
    made.disks.map(async (disk) => {
      const [described] = await all([
        describe(made, disk, signal),
        refuseUnfinished(engine.tools, made.staging.diskPath(disk.file), signal),
      ]);
      return described;
    }),
  );
}

/** Of synced files. @throws sync-failed, lease-lost, vault-full, … ; published only if it returns */
export async function publish(
  context: PublishContext,
  made: Unpublished,
  described: ManifestDisk[],
): Promise<Manifest> {
  const { engine, folder, lease } = context;
  const { staging } = made;
  const manifest = manifestOf(context, made, described);
  for (const [file, text] of Object.entries(made.facts.beside)) await staging.write(file, text);
  await rememberVm(folder, lease, manifest);
  await engine.reachStep('publish');
  await staging.publish(manifest, lease);
  return manifest;
}

/** A new file that was closed in order leaks nothing: a leak here is a cluster whose table entry was never written. */
async function refuseUnfinished(
  tools: QemuTools,
  path: string,
  signal: AbortSignal | undefined,
): Promise<void> {
  const { leaks } = await checkImage(tools, { path }, { signal });
  if (leaks === 0) return;
  throw new QmpvaultError(
    'image-invalid',
    `${path} was not closed in order: ${leaks} clusters belong to nothing`,
    {
      details: { path, leaks },
    },
  );
}

/** Increments are digested before publishing; of a full that would double its time: it follows (`digestFulls`). */
async function describe(
  { staging, copied }: Unpublished,
  { index, disk, file, backingLink, bitmap }: CopiedDisk,
  signal: AbortSignal | undefined,
): Promise<ManifestDisk> {
  const path = staging.diskPath(file);
  const incremental = backingLink !== null;
  const header = await readQcow2Header(path);
  if (header.backingLink !== backingLink) {
    throw new QmpvaultError(
      'image-invalid',
      `${path} stands on ${header.backingLink}, not on ${backingLink}`,
    );
  }
  return {
    name: disk.name,
    kind: incremental ? 'incremental' : 'full',
    file,
    virtualSizeBytes: disk.sizeBytes,
    copiedBytes: copied.bytes.get(index) ?? 0,
    storedBytes: await storedBytes(path),
    sha256: incremental ? await sha256File(path, { ...(signal && { signal }) }) : null,
    bitmap: bitmap && { name: bitmap.name, pattern: [...bitmap.pattern] },
    granularityBytes: GRANULARITY_BYTES,
    source: { image: disk.image, format: disk.format, node: disk.node, device: disk.device },
  };
}

async function storedBytes(path: string): Promise<number> {
  try {
    return (await stat(path)).size;
  } catch (error) {
    throw ioError(error, 'looking at', path);
  }
}

function manifestOf(
  context: PublishContext,
  { run, staging, facts, moment, copied }: Unpublished,
  disks: ManifestDisk[],
): Manifest {
  const { vault, folder, vm, engine } = context;
  return {
    format: FORMAT,
    id: staging.id,
    vm: { name: folder.name, uuid: vm.uuid },
    vault: vault.id,
    createdAt: moment.at.toISOString(),
    kind: facts.kind,
    parent: facts.parent,
    how: facts.how,
    why: facts.why,
    consistency: moment.consistency,
    sealed: false,
    // Who relies on it must find such a bitmap on every disk.
    ...(facts.bitmapAlias &&
      disks.every(({ bitmap }) => bitmap !== null) && { bitmapAlias: facts.bitmapAlias }),
    disks,
    left: facts.left,
    timings: {
      freezeMs: rounded(moment.freezeMs),
      pauseMs: rounded(moment.pauseMs),
      copyMs: Math.round(copied.copyMs),
      totalMs: Math.round(performance.now() - context.beganMs),
    },
    versions: { engine: engine.version, qemu: vm.qemuVersion, format: FORMAT },
    run,
  };
}

function rounded(ms: number | null): number | null {
  return ms === null ? null : Math.round(ms * 10) / 10;
}

/** What a later backup of the stopped VM needs; written only when it changed. */
async function rememberVm(
  folder: VmFolder,
  lease: Lease,
  { vm, disks, left, createdAt }: Manifest,
): Promise<void> {
  const known = await folder.readRecord().catch(() => null);
  const record: VmRecord = {
    format: FORMAT,
    name: folder.name,
    uuid: vm.uuid,
    disks: [
      ...disks.map(({ name, virtualSizeBytes, source: { image, format, device } }) => ({
        name,
        image,
        format,
        device,
        virtualSizeBytes,
      })),
      // Left out of this point, it is still a disk of the VM.
      ...(known?.disks.filter(({ name }) => left.some((disk) => disk.name === name)) ?? []),
    ],
    updatedAt: createdAt,
  };
  const same =
    JSON.stringify({ ...known, updatedAt: null }) === JSON.stringify({ ...record, updatedAt: null });
  if (!same) await folder.writeRecord(record, lease);
}

/** Fills in the digests of a published full, reading it back. Cancelled, they stay pending; deep verify fills them in. */
export async function digestFulls(
  { folder, lease, control }: Pick<RunContext, 'folder' | 'lease' | 'control'>,
  point: Manifest,
  warnings: string[],
): Promise<Manifest> {
  try {
    return await digest(folder, lease, point, control);
  } catch (error) {
    warnings.push(`${point.id} is published, its digests are pending: ${whyPending(error)}`);
    return point;
  }
}

async function digest(
  folder: VmFolder,
  lease: Lease,
  point: Manifest,
  control: RunControl,
): Promise<Manifest> {
  if (point.disks.every((disk) => disk.sha256 !== null)) return point;
  const done = new Map<string, number>();
  const disks: ManifestDisk[] = [];
  for (const disk of point.disks) {
    const path = join(folder.path, point.id, disk.file);
    const onBytes = (bytes: number) => {
      done.set(disk.name, (done.get(disk.name) ?? 0) + bytes);
      control.onProgress?.({
        phase: 'digesting',
        disks: point.disks.map(({ name, storedBytes }) => ({
          name,
          doneBytes: done.get(name) ?? 0,
          totalBytes: storedBytes,
        })),
      });
    };
    const sha256 =
      disk.sha256 ?? (await sha256File(path, { onBytes, ...(control.signal && { signal: control.signal }) }));
    disks.push({ ...disk, sha256 });
  }
  const digested = { ...point, disks };
  await folder.replaceManifest(digested, lease);
  return digested;
}
