/**
 * What a worker is to do and how it ended, as files of its folder on local disk: what is left of a run when both the
 * daemon and the worker are gone.
 */
import { mkdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { type ErrorCode, errnoOf, QmpvaultError } from '../base/errors.ts';
import { OPERATION_NAMES, type OperationName } from '../operations/index.ts';
import { writeFileDurably } from '../vault/durable.ts';

const taskSchema = z.object({
  format: z.literal(1),
  run: z.string(),
  operation: z.enum(OPERATION_NAMES as [OperationName, ...OperationName[]]),
  params: z.record(z.string(), z.unknown()),
  socket: z.string(),
  places: z.object({
    stateDir: z.string(),
    runtimeDir: z.string(),
    scratchDir: z.string(),
    scratchLimitBytes: z.number().optional(),
  }),
  qemuBin: z.string().nullable(),
  logLevel: z.string(),
});

export type Task = z.output<typeof taskSchema>;

const outcomeSchema = z.discriminatedUnion('ok', [
  z.object({ ok: z.literal(true), result: z.record(z.string(), z.unknown()) }),
  z.object({
    ok: z.literal(false),
    error: z.object({
      code: z.custom<ErrorCode>((code) => typeof code === 'string'),
      message: z.string(),
      details: z.record(z.string(), z.unknown()),
    }),
  }),
]);

export type Outcome = z.output<typeof outcomeSchema>;

/** What the last worker left that says that it was there, and how it ended; its log stays. */
export async function forgetAttempt(folder: string): Promise<void> {
  for (const file of ['outcome.json', 'pid']) await rm(join(folder, file), { force: true });
}

/** Durable when it returns. */
export async function writeTask(folder: string, task: Task): Promise<void> {
  await mkdir(folder, { recursive: true, mode: 0o700 });
  await writeFileDurably(join(folder, 'task.json'), `${JSON.stringify(task)}\n`);
}

/** @throws internal when it is missing or makes no sense */
export async function readTask(folder: string): Promise<Task> {
  const task = taskSchema.safeParse(await readJson(join(folder, 'task.json')));
  if (task.success) return task.data;
  throw new QmpvaultError('internal', `${folder} holds no task for a worker`, { cause: task.error });
}

/** Durable when it returns: the worker may end. */
export async function writeOutcome(folder: string, outcome: Outcome): Promise<void> {
  await writeFileDurably(join(folder, 'outcome.json'), `${JSON.stringify(outcome)}\n`);
}

/** null while the worker is at work, and when it died in the middle of it. */
export async function readOutcome(folder: string): Promise<Outcome | null> {
  return outcomeSchema
    .nullable()
    .catch(null)
    .parse(await readJson(join(folder, 'outcome.json')));
}

async function readJson(path: string): Promise<unknown> {
  try {
    return JSON.parse(await readFile(path, 'utf8'));
  } catch (error) {
    if (errnoOf(error) === 'ENOENT' || error instanceof SyntaxError) return null;
    throw error;
  }
}
