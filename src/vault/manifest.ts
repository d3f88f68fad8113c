/**
 * The manifest: what a restore point is, as JSON beside its disks. Validated on every read, since anybody may have
 * written to the NAS; members that this version does not know are kept.
 */
import { z } from 'zod';
import { messageOf, QmpvaultError } from '../base/errors.ts';
import {
  type BitmapName,
  type DiskName,
  diskName,
  type PointId,
  parseBitmapName,
  pointId,
  type RunId,
  type VaultId,
  type VmName,
  vmName,
} from '../base/ids.ts';
import { diskFileName } from './layout.ts';

export const FORMAT = 1;

const HOW = [
  'first',
  'requested',
  'cadence',
  'chain-sealed',
  'disks-changed',
  'bitmap-lost',
  'tracked',
  'resynced',
  'branched',
] as const;
export type How = (typeof HOW)[number];
export type PointKind = 'full' | 'incremental';

export interface ManifestDisk {
  name: DiskName;
  /** `incremental`: backed by the same disk of the point's parent. */
  kind: PointKind;
  /** Its file in the point's folder. */
  file: string;
  virtualSizeBytes: number;
  copiedBytes: number;
  storedBytes: number;
  /** Lower-case hex; null while it is pending. */
  sha256: string | null;
  /** The bitmap that tracks from this point on, with the byte offsets of its identity pattern. */
  bitmap: { name: BitmapName; pattern: number[] } | null;
  granularityBytes: number;
  source: { image: string; format: string; node: string; device: string };
}

export interface Manifest {
  format: typeof FORMAT;
  id: PointId;
  vm: { name: VmName; uuid: string };
  vault: VaultId;
  /** The moment, UTC. */
  createdAt: string;
  kind: PointKind;
  parent: PointId | null;
  how: How;
  /** `how` in words. */
  why: string;
  /** What was reached, not what was asked. */
  consistency: 'crash' | 'filesystem';
  /** Its chain is not to be extended from here on. */
  sealed: boolean;
  /** Never chosen by prune, refused by delete. */
  protected?: boolean | undefined;
  /** What the orchestrator that asked for this point calls its bitmaps. */
  bitmapAlias?: string | undefined;
  disks: ManifestDisk[];
  /** Disks of the VM that are not in this point. */
  left: { name: string; why: string }[];
  timings: { freezeMs: number | null; pauseMs: number | null; copyMs: number; totalMs: number };
  versions: { engine: string; qemu: string; format: typeof FORMAT };
  run: RunId;
}

/** A name that the rules of base/ids.ts accept, branded. */
export function named<T extends string>(check: (name: string) => T) {
  return z.string().transform((name, context): T => {
    try {
      return check(name);
    } catch (error) {
      context.addIssue(messageOf(error));
      return z.NEVER;
    }
  });
}

function isBitmapName(value: unknown): value is BitmapName {
  return typeof value === 'string' && parseBitmapName(value) !== null;
}

const bytes = z.int().nonnegative();
const milliseconds = z.number().nonnegative();
const kind = z.enum(['full', 'incremental']);

const diskSource = z.looseObject({
  image: z.string(),
  format: z.string(),
  node: z.string(),
  device: z.string(),
});

const diskSchema = z.looseObject({
  name: named(diskName),
  kind,
  file: named(diskFileName),
  virtualSizeBytes: bytes,
  copiedBytes: bytes,
  storedBytes: bytes,
  sha256: z
    .string()
    .regex(/^[0-9a-f]{64}$/)
    .nullable(),
  bitmap: z
    .looseObject({ name: z.custom<BitmapName>(isBitmapName), pattern: z.array(bytes).max(64) })
    .nullable(),
  granularityBytes: bytes,
  source: diskSource,
});

const manifestSchema: z.ZodType<Manifest> = z.looseObject({
  format: z.literal(FORMAT),
  id: named(pointId),
  vm: z.looseObject({ name: named(vmName), uuid: z.string() }),
  vault: z.custom<VaultId>(isVaultId),
  createdAt: z.iso.datetime(),
  kind,
  parent: named(pointId).nullable(),
  how: z.enum(HOW),
  why: z.string(),
  consistency: z.enum(['crash', 'filesystem']),
  sealed: z.boolean(),
  protected: z.boolean().optional(),
  bitmapAlias: z.string().optional(),
  disks: z.array(diskSchema).min(1),
  left: z.array(z.looseObject({ name: z.string(), why: z.string() })),
  timings: z.looseObject({
    freezeMs: milliseconds.nullable(),
    pauseMs: milliseconds.nullable(),
    copyMs: milliseconds,
    totalMs: milliseconds,
  }),
  versions: z.looseObject({ engine: z.string(), qemu: z.string(), format: z.literal(FORMAT) }),
  run: z.custom<RunId>((value) => typeof value === 'string'),
});

export function isVaultId(value: unknown): value is VaultId {
  return typeof value === 'string' && /^[0-9a-f]{32}$/.test(value);
}

/**
 * @param where the manifest's path, for the message
 * @throws manifest-invalid; vault-format when a newer qmpvault wrote it
 */
export function parseManifest(text: string, where: string): Manifest {
  const manifest = parseVaultJson(manifestSchema, text, where);
  const problem = contradictionIn(manifest);
  if (problem !== null) throw invalid(where, problem);
  return manifest;
}

/** @throws manifest-invalid: what is about to be written could not be read back */
export function formatManifest(manifest: Manifest, where: string): string {
  const text = `${JSON.stringify(manifest, null, 2)}\n`;
  parseManifest(text, where);
  return text;
}

/** Reads any of the vault's versioned JSON files. @throws manifest-invalid, vault-format */
export function parseVaultJson<T>(schema: z.ZodType<T>, text: string, where: string): T {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw invalid(where, 'it is no JSON', error);
  }
  const format = typeof value === 'object' && value !== null && 'format' in value ? value.format : undefined;
  if (typeof format === 'number' && format > FORMAT) {
    throw new QmpvaultError(
      'vault-format',
      `${where} has format ${format}, this qmpvault knows ${FORMAT}: use the newer qmpvault that wrote it`,
      { details: { path: where, format, known: FORMAT } },
    );
  }
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  throw invalid(where, `${issue?.path.join('.') || 'it'}: ${issue?.message}`, result.error);
}

/** What no schema sees: members that are right by themselves. */
function contradictionIn({ id, kind, parent, disks }: Manifest): string | null {
  const isIncremental = disks.some((disk) => disk.kind === 'incremental');
  if (isIncremental !== (kind === 'incremental')) return `the point is ${kind}, its disks are not`;
  if ((parent !== null) !== isIncremental) {
    return isIncremental ? 'an incremental without a parent' : 'a full with a parent';
  }
  if (parent === id) return 'the point is its own parent';
  if (new Set(disks.map((disk) => disk.name)).size < disks.length) return 'two disks of one name';
  if (new Set(disks.map((disk) => disk.file)).size < disks.length) return 'two disks in one file';
  return null;
}

function invalid(where: string, problem: string, cause?: unknown): QmpvaultError {
  return new QmpvaultError('manifest-invalid', `${where} cannot be read: ${problem}`, {
    details: { path: where, problem },
    cause,
  });
}
