/** What is known of a run, as it is kept on local disk. Whatever happens to it, happens through {@link afterEvent}. */
import { z } from 'zod';
import { type ErrorCode, type errorJson, QmpvaultError } from '../base/errors.ts';
import type { RunId, VmName } from '../base/ids.ts';
import type { ProcessId } from '../image/process-id.ts';
import { OPERATION_NAMES, type OperationName, type Progress } from '../operations/index.ts';
import { RUN_CAUSES, RUN_STATES } from '../rpc/run.ts';
import { isEnded, nextState, type RunEventType, type RunState } from './run-state.ts';

export type Cause = (typeof RUN_CAUSES)[number];

export interface RunRecord {
  readonly format: 1;
  readonly id: RunId;
  readonly what: OperationName;
  /** null: of no single VM. */
  readonly vm: VmName | null;
  /** Its name in the configuration. */
  readonly vault: string | null;
  /** Of the operation, as JSON. */
  readonly params: Readonly<Record<string, unknown>>;
  readonly requestId: string | null;
  readonly cause: Cause;
  /** The time of the schedule that it stands for. */
  readonly scheduledFor: string | null;
  readonly state: RunState;
  /** How often a worker was started for it. */
  readonly attempts: number;
  /** No attempt begins before. */
  readonly notBefore: string | null;
  readonly worker: ProcessId | null;
  readonly progress: Progress | null;
  /** The restore point that it made. */
  readonly point: string | null;
  /** Bytes per second, in place of its own wish; null: no limit; undefined: nobody changed it. */
  readonly bandwidth?: number | null | undefined;
  /** Of the operation, as JSON. */
  readonly result: unknown;
  /** Why it failed, or why its last attempt did. */
  readonly error: RunError | null;
  readonly warnings: readonly string[];
  readonly createdAt: string;
  readonly startedAt: string | null;
  readonly endedAt: string | null;
}

export type RunError = ReturnType<typeof errorJson>;

const date = z.iso.datetime();

const schema: z.ZodType<RunRecord> = z.object({
  format: z.literal(1),
  id: z.custom<RunId>((id) => typeof id === 'string' && /^[0-9a-f]{8}$/.test(id)),
  what: z.enum(OPERATION_NAMES),
  vm: z.custom<VmName>((name) => typeof name === 'string').nullable(),
  vault: z.string().nullable(),
  params: z.record(z.string(), z.unknown()),
  requestId: z.string().nullable(),
  cause: z.enum(RUN_CAUSES),
  scheduledFor: date.nullable(),
  state: z.enum(RUN_STATES),
  attempts: z.int().min(0),
  notBefore: date.nullable(),
  worker: z.object({ pid: z.int(), startTime: z.int(), bootId: z.string() }).nullable(),
  progress: z.custom<Progress>((it) => typeof it === 'object').nullable(),
  point: z.string().nullable(),
  bandwidth: z.number().nullable().optional(),
  result: z.unknown(),
  error: z
    .object({
      code: z.custom<ErrorCode>((code) => typeof code === 'string'),
      message: z.string(),
      details: z.record(z.string(), z.unknown()),
    })
    .nullable(),
  warnings: z.array(z.string()),
  createdAt: date,
  startedAt: date.nullable(),
  endedAt: date.nullable(),
});

/** null when the text is no record of ours, or one of a newer qmpvault. */
export function parseRunRecord(text: string): RunRecord | null {
  try {
    return schema.parse(JSON.parse(text));
  } catch {
    return null;
  }
}

export type NewRun = Pick<RunRecord, 'what' | 'vm' | 'vault' | 'params' | 'cause'> &
  Partial<Pick<RunRecord, 'requestId' | 'scheduledFor'>>;

export function newRunRecord(id: RunId, run: NewRun, at: Date): RunRecord {
  return {
    format: 1,
    id,
    requestId: null,
    scheduledFor: null,
    ...run,
    state: 'queued',
    attempts: 0,
    notBefore: null,
    worker: null,
    progress: null,
    point: null,
    result: null,
    error: null,
    warnings: [],
    createdAt: at.toISOString(),
    startedAt: null,
    endedAt: null,
  };
}

interface Told {
  readonly warnings?: readonly string[];
  readonly progress?: Progress;
  readonly worker?: ProcessId;
  readonly bandwidth?: number | null;
}

interface Facts extends Record<RunEventType, object> {
  started: Told;
  noted: Told;
  cancelRequested: object;
  finished: Told & { readonly result: unknown; readonly point?: string | null };
  failed: Told & { readonly error: RunError };
  stopped: Told & { readonly error: RunError };
  postponed: Told & { readonly error: RunError; readonly notBefore: string };
  lost: Told & { readonly error: RunError };
}

export type RunEvent = { [T in RunEventType]: { readonly type: T } & Facts[T] }[RunEventType];

/** The record after an event. Pure. @throws internal for one that cannot happen in this state */
export function afterEvent(record: RunRecord, event: RunEvent, at: Date): RunRecord {
  const state = nextState(record.state, event.type);
  if (state === null) {
    throw new QmpvaultError(
      'internal',
      `the run ${record.id} is ${record.state}: '${event.type}' cannot be`,
      {
        details: { run: record.id, state: record.state, event: event.type },
      },
    );
  }
  if (event.type === 'cancelRequested' && state === record.state) return record;
  const { type, warnings = [], ...facts } = { warnings: [], ...event };
  const isStart = type === 'started';
  return {
    ...record,
    ...(isStart && {
      attempts: record.attempts + 1,
      startedAt: record.startedAt ?? at.toISOString(),
      notBefore: null,
      error: null,
      progress: null,
    }),
    // Whoever worked for it before does no longer.
    ...((isStart || state === 'queued' || isEnded(state)) && { worker: null }),
    ...(type === 'finished' && { error: null }),
    ...facts,
    state,
    warnings: [...record.warnings, ...warnings],
    ...(isEnded(state) && { endedAt: at.toISOString(), notBefore: null }),
  };
}
