/**
 * Verifying that points can be restored. It reads as a restore does, registered and without the lease, so that it
 * keeps no backup waiting; the lease is taken for a moment to write down what was found.
 */
import { codeOf, messageOf, QmpvaultError } from '../base/errors.ts';
import type { DiskName, PointId, VmName } from '../base/ids.ts';
import { type BootEngine, type BootReport, type BootWish, tryBoot } from '../restore/boot-check.ts';
import { selectPoint } from '../restore/restore-plan.ts';
import { descendants } from '../vault/chain.ts';
import type { Lease } from '../vault/lease.ts';
import { FORMAT, type Manifest, type ManifestDisk } from '../vault/manifest.ts';
import type { PointListing } from '../vault/points.ts';
import type { Vault } from '../vault/vault.ts';
import {
  type BootEvidence,
  type BootRecord,
  LEVELS,
  type Level,
  type Verification,
} from '../vault/verification.ts';
import type { VmFolder } from '../vault/vm-folder.ts';
import { changeFinisher } from './delete.ts';
import type { UpkeepControl, UpkeepEngine } from './engine.ts';
import { type Finding, Inspection } from './inspection.ts';
import { WorkMeter } from './work.ts';

export interface VerifyRequest {
  /** All VMs when it is left out. */
  readonly vm?: VmName | undefined;
  /** An id, a unique beginning of one, or `latest`; all when it is left out. */
  readonly point?: string | undefined;
  readonly level: Level;
  /** A guest has to come up from each point too, in which nothing else was found. */
  readonly boot?: BootWish | undefined;
  /** Only so many: those that were not looked at so closely, or booted from, for the longest time. */
  readonly oldest?: number | undefined;
}

export interface Damage {
  readonly vm: VmName;
  readonly point: string;
  readonly disk: DiskName | null;
  readonly what: string;
  /** The points that cannot be restored as they were because of it. */
  readonly affects: readonly PointId[];
}

export interface Booted extends BootRecord {
  readonly vm: VmName;
  readonly point: PointId;
}

export interface VerifyResult {
  readonly checked: number;
  readonly damaged: readonly Damage[];
  /** A point from which no guest came up is none that is damaged: see decision 50. */
  readonly booted: readonly Booted[];
  readonly warnings: readonly string[];
}

/** A restore or a change that is under way is not waited for much longer than it takes to begin or end one. */
const WAIT_MS = 30_000;

export type VerifyEngine = UpkeepEngine & BootEngine;

/**
 * Damage is a result, and that no guest came up.
 * @throws vm-unknown, point-unknown, vault-away, vault-locked, vault-unreadable, boot-failed, scratch-full, cancelled
 */
export async function verify(
  engine: VerifyEngine,
  vault: Vault,
  request: VerifyRequest,
  control: UpkeepControl = {},
): Promise<VerifyResult> {
  const folders = await foldersOf(vault, request.vm);
  const chosen = await choose(folders, request);
  const meter = meterOf(chosen, request, control);
  const results: VerifyResult[] = [];
  for (const folder of folders) {
    const wanted = new Set(chosen.filter((one) => one.folder === folder).map(({ point }) => point.id));
    results.push(await verifyVm(engine, folder, wanted, request, { meter, signal: control.signal }));
  }
  return {
    checked: results.reduce((sum, { checked }) => sum + checked, 0),
    damaged: results.flatMap(({ damaged }) => damaged),
    booted: results.flatMap(({ booted }) => booted),
    warnings: results.flatMap(({ warnings }) => warnings),
  };
}

async function foldersOf(vault: Vault, name: VmName | undefined): Promise<VmFolder[]> {
  if (name === undefined) return (await vault.vmNames()).map((name) => vault.vm(name));
  const folder = vault.vm(name);
  if (await folder.exists()) return [folder];
  throw new QmpvaultError('vm-unknown', `the vault ${vault.path} has no VM ${name}`, {
    details: { vault: vault.path, vm: name },
  });
}

interface Chosen {
  readonly folder: VmFolder;
  readonly point: Manifest;
}

async function choose(folders: readonly VmFolder[], request: VerifyRequest): Promise<Chosen[]> {
  const { point: selector, oldest } = request;
  const all: (Chosen & { at: string })[] = [];
  for (const folder of folders) {
    const listing = await folder.points();
    const points = selector === undefined ? listing.points : [selectPoint(listing, selector)];
    for (const point of points) {
      const before = oldest === undefined ? null : await folder.readVerification(point.id);
      all.push({ folder, point, at: lastDone(before, request) });
    }
  }
  return oldest === undefined ? all : all.toSorted((a, b) => (a.at < b.at ? -1 : 1)).slice(0, oldest);
}

/** When all that is wanted was last done; empty: never. */
function lastDone(before: Verification | null, { level, boot }: VerifyRequest): string {
  if (before === null || LEVELS.indexOf(before.level) < LEVELS.indexOf(level)) return '';
  const booted = before.boot?.at ?? '';
  return boot !== undefined && booted < before.at ? booted : before.at;
}

/** What stands under several points is read once, and counted with the first of them. */
function meterOf(chosen: readonly Chosen[], { level }: VerifyRequest, { onWork }: UpkeepControl): WorkMeter {
  const disks = chosen.flatMap(({ point }) => point.disks);
  const bytesOf = ({ storedBytes, virtualSizeBytes }: ManifestDisk) =>
    storedBytes + (level === 'deep' ? virtualSizeBytes : 0);
  const totalBytes = disks.reduce((sum, disk) => sum + bytesOf(disk), 0);
  return new WorkMeter(onWork, { phase: 'checking', name: `${chosen.length} points`, totalBytes });
}

async function verifyVm(
  engine: VerifyEngine,
  folder: VmFolder,
  wanted: ReadonlySet<PointId>,
  { level, boot: wish }: VerifyRequest,
  { meter, signal }: { meter: WorkMeter; signal: AbortSignal | undefined },
): Promise<VerifyResult> {
  await settle(engine, folder, signal);
  await using reader = await folder.registerReader({ what: 'a verification', waitMs: WAIT_MS, signal });
  const listing = await folder.points();
  const inspection = await Inspection.of({
    tools: engine.tools,
    folder,
    listing,
    level,
    signal,
    onBytes: (bytes) => meter.finish(bytes),
  });
  const damaged: Damage[] = listing.broken.map(({ id, error }) => ({
    vm: folder.name,
    point: id,
    disk: null,
    what: error.message,
    affects: descendants(listing.points, id as PointId).map((point) => point.id),
  }));
  const booted: Booted[] = [];
  const warnings: string[] = [];
  for (const point of listing.points.filter(({ id }) => wanted.has(id))) {
    const findings = await inspection.look(point);
    const boot =
      wish === undefined || findings.length > 0
        ? null
        : await tryBoot(engine, await inspection.sources(point), wish, signal);
    await reader.assertRegistered();
    for (const finding of findings) {
      const isKnown = damaged.some(({ point, disk, affects }) =>
        disk === null ? affects.includes(finding.point) : point === finding.point && disk === finding.disk,
      );
      if (!isKnown) damaged.push(describe(folder, listing, finding));
    }
    const told = boot && recordOf(boot);
    if (told !== null) booted.push({ vm: folder.name, point: point.id, ...told });
    const seen = { level, findings, boot: told, evidence: boot, inspection, signal };
    const warning = await record(folder, point, seen);
    if (warning !== null) warnings.push(warning);
  }
  return { checked: wanted.size, damaged, booted, warnings };
}

/** In the middle of a change, files are not what their manifests say: that is no damage, but no time to look either. */
async function settle(
  engine: UpkeepEngine,
  folder: VmFolder,
  signal: AbortSignal | undefined,
): Promise<void> {
  if ((await folder.readChange()) === null) return;
  const what = 'finishing a change before a verification';
  await using lease = await folder.acquireLease({ what, waitMs: WAIT_MS, leaveChange: true, signal });
  await changeFinisher(engine)(folder, lease, signal);
}

function describe(folder: VmFolder, { points }: PointListing, { point, disk, what }: Finding): Damage {
  const affects = [point];
  for (const { id, parent, disks } of descendants(points, point)) {
    const stands = disks.some(({ name, kind }) => name === disk && kind === 'incremental');
    if (parent !== null && affects.includes(parent) && stands) affects.push(id);
  }
  return { vm: folder.name, point, disk, what, affects };
}

function recordOf({ answer, what, tookMs, accelerator }: BootReport): BootRecord {
  return { at: new Date().toISOString(), answer, what, tookMs, accelerator };
}

interface Seen {
  readonly level: Level;
  readonly findings: readonly Finding[];
  readonly boot: BootRecord | null;
  readonly evidence: BootEvidence | null;
  readonly inspection: Inspection;
  readonly signal: AbortSignal | undefined;
}

/** @returns why nothing could be written down: a vault that can only be read is verified all the same */
async function record(folder: VmFolder, { id }: Manifest, seen: Seen): Promise<string | null> {
  const { level, findings, boot, evidence, signal } = seen;
  try {
    const what = `noting what was verified of ${id}`;
    await using lease = await folder.acquireLease({ what, waitMs: WAIT_MS, leaveChange: true, signal });
    const damage = findings.map(({ disk, what }) => ({ disk, what }));
    const last = boot ?? (await folder.readVerification(id))?.boot;
    await folder.writeVerification(
      id,
      { format: FORMAT, at: new Date().toISOString(), level, damage, ...(last && { boot: last }) },
      lease,
      evidence,
    );
    await keepDigests(folder, lease, id, seen);
    for (const { point } of findings) await seal(folder, lease, point);
    return null;
  } catch (error) {
    if (!['vault-locked', 'vault-unreadable', 'vault-full'].includes(codeOf(error))) throw error;
    return `what was found of ${id} could not be written down: ${messageOf(error)}`;
  }
}

/** Digests that were pending. Read again under the lease: somebody may have sealed or protected the point meanwhile. */
async function keepDigests(folder: VmFolder, lease: Lease, id: PointId, { inspection }: Seen): Promise<void> {
  const point = (await folder.points()).points.find((point) => point.id === id);
  if (point === undefined) return;
  const disks = await Promise.all(
    point.disks.map(async (disk) => {
      const report = disk.sha256 === null ? await inspection.report(id, disk.file) : null;
      return report === null || report.damage !== null ? disk : { ...disk, sha256: report.sha256 };
    }),
  );
  const isNew = disks.some(({ sha256 }, i) => sha256 !== point.disks[i]?.sha256);
  if (isNew) await folder.replaceManifest({ ...point, disks }, lease);
}

/** Nothing more is put on top of what is damaged. */
async function seal(folder: VmFolder, lease: Lease, id: PointId): Promise<void> {
  const point = (await folder.points()).points.find((point) => point.id === id);
  if (point !== undefined && !point.sealed) await folder.replaceManifest({ ...point, sealed: true }, lease);
}
