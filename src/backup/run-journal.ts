/**
 * The run's own journal, on local disk: what may exist in the VM, on the NAS and on this host because of it, written
 * before any of it is made. Whoever comes after a dead engine finds here what to take away.
 */
import { mkdir, readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { QmpvaultError } from '../base/errors.ts';
import type { RunId } from '../base/ids.ts';
import { describe, isAlive, type ProcessId } from '../image/process-id.ts';
import { writeFileDurably } from '../vault/durable.ts';

const recordSchema = z.object({
  format: z.literal(1),
  run: z.string().transform((run) => run as RunId),
  owner: z.object({ pid: z.number(), startTime: z.number(), bootId: z.string() }),
  vm: z.object({ name: z.string(), uuid: z.string(), socket: z.string() }),
  vault: z.object({ path: z.string(), id: z.string() }),
  point: z.string(),
  folders: z.object({ writer: z.string(), nbd: z.string(), scratch: z.string() }),
  /** The bitmaps that it makes: garbage unless the point was published. */
  bitmaps: z.array(z.string()),
  /** The images that it reads where the VM is stopped; none: the VM runs. */
  images: z.array(z.string()).default([]),
});

export type RunRecord = z.output<typeof recordSchema>;
/** All but who makes it. */
export type RunFacts = Omit<RunRecord, 'owner'>;

async function thisProcess(): Promise<ProcessId> {
  const self = await describe(process.pid);
  if (self !== null) return self;
  throw new QmpvaultError('internal', 'this process does not find itself in /proc');
}

/** Begins a run that this process owns. Durable when it returns: the host's own crash must not leave things of which nobody knows. */
export async function writeRunRecord(stateDir: string, facts: RunFacts): Promise<void> {
  const record: RunRecord = { ...facts, owner: await thisProcess() };
  const folder = join(stateDir, 'runs');
  await mkdir(folder, { recursive: true, mode: 0o711 });
  await writeFileDurably(join(folder, `${record.run}.json`), `${JSON.stringify(record, null, 2)}\n`);
}

export async function removeRunRecord(stateDir: string, run: RunId): Promise<void> {
  await rm(join(stateDir, 'runs', `${run}.json`), { force: true });
}

export interface FoundRun {
  readonly record: RunRecord;
  /** Its engine lives: whatever is there is somebody's. */
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
    if (record.success) found.push({ record: record.data, living: await isAlive(record.data.owner) });
  }
  return found;
}

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
