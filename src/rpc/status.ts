/** What the daemon tells of itself, and of the VMs and vaults that it looks after. */
import { z } from 'zod';
import { type Json, moment } from './results.ts';
import { RUN_KINDS } from './run.ts';

export const vmStatus = z
  .object({
    name: z.string(),
    source: z
      .enum(['configured', 'added', 'discovered'])
      .meta({ description: 'in the configuration, by vm.add, or by its socket' }),
    uuid: z.string().nullable(),
    state: z
      .enum(['running', 'stopped', 'unknown'])
      .meta({ description: 'running: somebody listens on its QMP socket' }),
    qmp: z.string().nullable().meta({ description: 'its QMP socket; null: it never runs' }),
    agent: z.string().nullable().meta({ description: "its guest agent's socket" }),
    vault: z.string().nullable().meta({ description: 'where its points go' }),
    schedule: z.string().nullable().meta({ description: 'of its backups; null: only when asked' }),
    lastPoint: z
      .object({ id: z.string(), createdAt: moment('the moment that it shows') })
      .nullable()
      .meta({ description: 'the newest that is known; null: none, or the vault was not read yet' }),
    nextRun: z
      .object({ what: z.enum(RUN_KINDS), at: moment('when it is due') })
      .nullable()
      .meta({ description: 'the next that is due by schedule' }),
    runId: z.string().nullable().meta({ description: 'the run that is at work on it' }),
    bitmaps: z.enum(['healthy', 'lost', 'unknown']).meta({
      description: 'lost: the last backup had to read a disk again whose changes were not tracked',
    }),
    problem: z.string().nullable().meta({ description: 'what keeps it from being backed up, in words' }),
  })
  .meta({ id: 'Vm', description: 'a VM that the daemon knows' });

export const vaultStatus = z
  .object({
    name: z.string(),
    path: z.string(),
    state: z.enum(['ready', 'away', 'unmounted', 'unknown']).meta({
      description:
        'away: its NAS does not answer; unmounted: mounted when it is needed; unknown: not asked yet',
    }),
    since: moment('since when it is so').nullable(),
    why: z.string().nullable().meta({ description: 'of a vault that is away: what is wrong' }),
    totalBytes: z.int().nonnegative().nullable(),
    freeBytes: z.int().nonnegative().nullable(),
  })
  .meta({ id: 'VaultStatus', description: 'a vault, as it was last seen' });

export const daemonStatus = z
  .object({
    version: z.string(),
    pid: z.int(),
    startedAt: moment('when the daemon was started'),
    state: z.enum(['running', 'stopping']).meta({ description: 'stopping: no run begins any more' }),
    config: z.object({
      file: z.string(),
      readAt: moment('when the configuration in force was read'),
      problem: z
        .string()
        .nullable()
        .meta({ description: 'why a newer one was refused; the old one stays in force' }),
    }),
    runs: z.object({
      queued: z.int().nonnegative(),
      running: z.int().nonnegative(),
      limit: z.int().positive(),
      bandwidth: z
        .number()
        .nullable()
        .meta({ description: 'bytes per second over all of them; null: no limit' }),
    }),
    vaults: z.array(vaultStatus),
    vms: z.array(vmStatus),
  })
  .meta({ id: 'DaemonStatus' });

export type VmStatus = Json<typeof vmStatus>;
export type VaultStatus = Json<typeof vaultStatus>;
export type DaemonStatus = Json<typeof daemonStatus>;
