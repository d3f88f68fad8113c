/**
 * The run's own journal, on local disk. Its record: what may exist in the VM, on the NAS and on this host because of it,
 * written before any of it is made. Whoever comes after a dead engine finds here what to take away.
 *
 * And its progress, one line for each step that was made: with it, the point can be finished. That is of use only as
 * long as the VM's process lives, and so it need not outlive the host: no line waits for the disk.
 */
import { appendFile, mkdir, readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { QmpvaultError } from '../base/errors.ts';
import { type BitmapName, diskName, type PointId, type RunId } from '../base/ids.ts';
import { describe, isAlive, type ProcessId } from '../image/process-id.ts';
import { writeFileDurably } from '../vault/durable.ts';
import { type How, named } from '../vault/manifest.ts';
import { nodeName } from '../vm/block-graph.ts';

const date = z.iso.datetime().transform((text) => new Date(text));
const milliseconds = z.number().nullable();

/** A moment that was taken, of a point that was planned: with its jobs, all that the point needs. */
const capturedSchema = z.object({
  facts: z.object({
    kind: z.enum(['full', 'incremental']),
    parent: z.custom<PointId>((value) => typeof value === 'string').nullable(),
    how: z.custom<How>((value) => typeof value === 'string'),
    why: z.string(),
    left: z.array(z.object({ name: z.string(), why: z.string() })),
    bitmapAlias: z.string().optional(),
    beside: z.record(z.string(), z.string()),
  }),
  moment: z.object({
    at: date,
    freezeMs: milliseconds,
    pauseMs: milliseconds,
    consistency: z.enum(['crash', 'filesystem']),
    warnings: z.array(z.string()).readonly(),
  }),
  /** Read through a snapshot, whose scratch space is watched. */
  snapshot: z.boolean(),
  disks: z.array(
    z.object({
      index: z.number(),
      disk: z.object({
        name: named(diskName),
        device: z.string(),
        node: z.string().transform(nodeName),
        format: z.string(),
        image: z.string(),
        sizeBytes: z.number(),
      }),
      plan: z.object({ how: z.enum(['full', 'tracked', 'resync']) }),
      backingLink: z.string().nullable(),
      bitmap: z
        .object({
          name: z.custom<BitmapName>((value) => typeof value === 'string'),
          pattern: z.array(z.number()).readonly(),
        })
        .nullable(),
      file: z.string(),
    }),
  ),
});

export type Captured = z.output<typeof capturedSchema>;

const progressSchema = z.object({
  captured: capturedSchema,
  /** All bytes are with the writer, by the disk's index: from then on the jobs may be dismissed. */
  copied: z.object({ bytes: z.array(z.tuple([z.number(), z.number()])), copyMs: z.number() }),
  /** The files are closed, and all bytes on the NAS. */
  synced: z.literal(true),
});

/** As far as it got. */
export type Progress = Partial<z.output<typeof progressSchema>>;

const recordSchema = z.object({
  format: z.literal(1),
  run: z.string().transform((run) => run as RunId),
  owner: z.object({ pid: z.number(), startTime: z.number(), bootId: z.string() }),
  vm: z.object({ name: z.string(), uuid: z.string(), socket: z.string() }),
  vault: z.object({ path: z.string(), id: z.string() }),
  point: z.string().transform((point) => point as PointId),
  began: date.catch(() => new Date()),
  folders: z.object({ writer: z.string(), nbd: z.string(), scratch: z.string() }),
  /** The bitmaps that it makes: garbage unless the point was published. */
  bitmaps: z.array(z.string()),
  /** The images that it reads where the VM is stopped; none: the VM runs. */
  images: z.array(z.string()).readonly().default([]),
});

export type RunRecord = z.output<typeof recordSchema>;
/** All but who makes it. */
export type RunFacts = Omit<RunRecord, 'owner'>;

async function thisProcess(): Promise<ProcessId> {
  const self = await describe(process.pid);
  if (self !== null) return self;
  throw new QmpvaultError('internal', 'this process does not find itself in /proc');
}

/** Runs that this process began and has not ended: that it lives does not say so of its runs. */
const underWay = new Set<RunId>();

/** This process owns the run. Durable when it returns: the host's own crash must not leave things of which nobody knows. */
export async function writeRunRecord(stateDir: string, facts: RunFacts): Promise<void> {
  const record: RunRecord = { ...facts, owner: await thisProcess() };
  underWay.add(record.run);
  const folder = join(stateDir, 'runs');
  await mkdir(folder, { recursive: true, mode: 0o711 });
  await writeFileDurably(join(folder, `${record.run}.json`), `${JSON.stringify(record, null, 2)}\n`);
}

/** Of its journal, if that stays, the next run may make what it can. */
export function runEnded(run: RunId): void {
  underWay.delete(run);
}

export async function removeRunRecord(stateDir: string, run: RunId): Promise<void> {
  runEnded(run);
  await forgetProgress(stateDir, run);
  await rm(join(stateDir, 'runs', `${run}.json`), { force: true });
}

/** Outlives this process when it returns. The record is there. */
export async function noteProgress(stateDir: string, run: RunId, news: Progress): Promise<void> {
  await appendFile(progressPath(stateDir, run), `${JSON.stringify(news)}\n`);
}

/** A line that makes no sense, of another version or cut off by a crash of the host, tells nothing. */
export async function readProgress(stateDir: string, run: RunId): Promise<Progress> {
  const text = await readFile(progressPath(stateDir, run), 'utf8').catch(() => '');
  const lines = text.split('\n').map((line) => progressSchema.partial().safeParse(jsonOf(line)).data);
  return Object.assign({}, ...lines);
}

/** What is being taken back nobody is to finish. */
export async function forgetProgress(stateDir: string, run: RunId): Promise<void> {
  await rm(progressPath(stateDir, run), { force: true });
}

function progressPath(stateDir: string, run: RunId): string {
  return join(stateDir, 'runs', `${run}.progress`);
}

export interface FoundRun {
  readonly record: RunRecord;
  /** It is at work: whatever is there is somebody's. */
  readonly living: boolean;
}

/** All runs that were begun on this host and not ended; a record that cannot be read is left alone. */
export async function readRunRecords(stateDir: string): Promise<FoundRun[]> {
  const folder = join(stateDir, 'runs');
  const names = await readdir(folder).catch(() => []);
  const found: FoundRun[] = [];
  for (const name of names.filter((name) => /^[0-9a-f]{8}\.json$/.test(name))) {
    const text = await readFile(join(folder, name), 'utf8').catch(() => '');
    const record = recordSchema.safeParse(jsonOf(text));
    if (record.success) found.push({ record: record.data, living: await isLiving(record.data) });
  }
  return found;
}

async function isLiving({ run, owner }: RunRecord): Promise<boolean> {
  return (await isAlive(owner)) && (owner.pid !== process.pid || underWay.has(run));
}

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
