/** A run as the daemon tells of it: long work, with a life of its own. */
import { z } from 'zod';
import { type Json, moment, warnings } from './results.ts';

export const RUN_STATES = ['queued', 'running', 'cancelling', 'succeeded', 'failed', 'cancelled'] as const;
export const RUN_KINDS = ['backup', 'restore', 'verify', 'prune', 'delete'] as const;
export const RUN_CAUSES = ['requested', 'scheduled', 'caught-up'] as const;

/** Nothing can be said as long as nothing has moved. */
const pace = {
  doneBytes: z.int().nonnegative(),
  totalBytes: z.int().nonnegative(),
  bytesPerSecond: z.number().nonnegative().nullable().meta({ description: 'of late; null: not known' }),
  leftMs: z.number().nonnegative().nullable().meta({ description: 'milliseconds to go; null: not known' }),
};
const phase = z
  .string()
  .meta({ description: 'such as preparing, copying, publishing, digesting; a disk: also waiting, done' });

export const runProgress = z
  .object({
    phase,
    ...pace,
    disks: z.array(z.object({ name: z.string(), phase, ...pace })),
  })
  .meta({ id: 'Progress', description: 'how far a run has come, in all and for each disk' });

export const errorObject = z
  .object({
    code: z.string().meta({ description: 'of the table of errors' }),
    message: z.string(),
    details: z.record(z.string(), z.unknown()),
  })
  .meta({ id: 'Error' });

export const run = z
  .object({
    id: z.string(),
    what: z.enum(RUN_KINDS),
    vm: z.string().nullable().meta({ description: 'null: it is not about a single VM' }),
    vault: z.string().nullable().meta({
      description:
        'its name in the configuration; TYPE:ADDRESS of one on a share that is mounted for this run',
    }),
    state: z.enum(RUN_STATES).meta({
      description: 'succeeded, failed and cancelled are the ends; nothing follows them',
    }),
    waitingFor: z.string().optional().meta({ description: 'while it is queued: why it has not begun yet' }),
    cause: z
      .enum(RUN_CAUSES)
      .meta({ description: 'caught-up: for a scheduled one that was missed while the daemon was down' }),
    requestId: z.string().nullable(),
    attempts: z.int().nonnegative().meta({ description: 'how often it was begun' }),
    notBefore: moment('the next attempt is not before').nullable(),
    progress: runProgress.nullable(),
    point: z.string().optional().meta({ description: 'the id of the restore point that a backup made' }),
    result: z.record(z.string(), z.unknown()).optional().meta({
      description:
        'what the command of the same name prints with --json; of a run that succeeded; not in the answer of run.list',
    }),
    error: errorObject
      .optional()
      .meta({ description: 'why it failed; while it is queued again: why its last attempt did' }),
    warnings,
    createdAt: moment('when it was asked for'),
    startedAt: moment('when it was begun first').nullable(),
    endedAt: moment('when it ended').nullable(),
  })
  .meta({ id: 'Run', description: 'long work, with a life of its own' });

export type Run = Json<typeof run>;
export type RunProgress = Json<typeof runProgress>;
