/**
 * JSON-RPC 2.0 without a transport: the text of one document in, the text of its answer out.
 *
 * json-rpc-2.0 finds the method and makes an answer of its result or error. What comes before that is ours, since the
 * library (m: 1.8.1) answers a batch of one without its array, takes `null` for no JSON and a method that is no string for
 * an unknown one, and fails on `[null]`; nor has it bounds.
 */
import {
  createJSONRPCErrorResponse,
  type JSONRPCErrorResponse,
  type JSONRPCID,
  type JSONRPCRequest,
  type JSONRPCResponse,
  JSONRPCServer,
} from 'json-rpc-2.0';
import { z } from 'zod';
import { CODES, codeOf, errorJson, QmpvaultError } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import type { Method } from './methods.ts';
import { parseParams } from './params.ts';
import { parseJson } from './parse-json.ts';
import type { Json } from './results.ts';
import { TimeSlice } from './time-slice.ts';

export type MethodTable = Readonly<Record<string, Method>>;

/** Who asked, and how long he waits for it. */
export interface CallContext {
  readonly client: RpcPeer;
  /** Aborted when the client has gone or the server ends. What was begun goes on: only the waiting is over. */
  readonly signal: AbortSignal;
}

export interface RpcPeer {
  readonly id: number;
  /** Aborted when the connection has ended. */
  readonly gone: AbortSignal;
  /**
   * Tells something unasked. To a client that reads slowly, of those with one `key` only the last is told, and when too
   * many wait, the oldest is dropped.
   */
  notify(method: string, params: object, key: string): void;
}

export type Handlers<T extends MethodTable> = {
  readonly [M in keyof T]: (
    params: z.output<T[M]['params']>,
    context: CallContext,
  ) => Json<T[M]['result']> | Promise<Json<T[M]['result']>>;
};

/** Of one batch, at a time. */
const BATCH_AT_ONCE = 16;
/** The answers of one batch together; what comes then is refused, and costs a hundred bytes. */
const BATCH_ANSWER_MAX_CHARS = 8 * 1024 * 1024;

const requestSchema = z.looseObject({
  jsonrpc: z.literal('2.0'),
  method: z.string(),
  params: z.custom<object>((value) => typeof value === 'object' && value !== null).optional(),
  id: z.union([z.string(), z.number(), z.null()]).optional(),
  // It would be a response.
  result: z.never().optional(),
  error: z.never().optional(),
});

export class Dispatcher {
  readonly #server: JSONRPCServer<CallContext>;
  readonly #log: Log;

  constructor(methods: MethodTable, handlers: Readonly<Record<string, unknown>>, log: Log) {
    this.#log = log;
    this.#server = new JSONRPCServer({ errorListener: () => {} });
    this.#server.mapErrorToJSONRPCErrorResponse = (id, error) => errorResponse(id, error);
    this.#server.applyMiddleware((next, request, context) => {
      if (this.#server.hasMethod(request.method)) return next(request, context);
      throw new QmpvaultError('method-unknown', 'Method not found', {
        details: { method: cut(request.method) },
      });
    });
    for (const [name, { params: schema }] of Object.entries(methods)) {
      const handler = handlers[name] as (params: unknown, context: CallContext) => unknown;
      this.#server.addMethod(name, async (params, context) =>
        this.#told(name, () => handler(parseParams(schema, params ?? {}), context)),
      );
    }
  }

  /** The answer to a document; null if it wants none. Never throws. */
  async answer(text: string, context: CallContext): Promise<string | null> {
    let document: unknown;
    try {
      document = parseJson(text);
    } catch {
      return refusal('rpc-no-json', 'Parse error');
    }
    if (!Array.isArray(document)) return this.#answerOne(document, context);
    return document.length === 0
      ? refusal('rpc-no-request', 'Invalid Request')
      : this.#answerAll(document, context);
  }

  /** For a document that there is no room for. */
  refuse(text: string, message: string): string {
    let id: JSONRPCID | undefined;
    try {
      id = idOf(parseJson(text));
    } catch {
      // Its end is the same.
    }
    return refusal('daemon-busy', message, id);
  }

  async #answerAll(batch: readonly unknown[], context: CallContext): Promise<string | null> {
    const answers: (string | null)[] = [];
    const slice = new TimeSlice();
    const entries = batch.entries();
    let chars = 0;
    const answerSome = async () => {
      for (const [i, request] of entries) {
        await slice.pause();
        if (context.client.gone.aborted) return;
        const answer =
          chars < BATCH_ANSWER_MAX_CHARS ? await this.#answerOne(request, context) : tooMuch(request);
        answers[i] = answer;
        chars += answer?.length ?? 0;
      }
    };
    await Promise.all(Array.from({ length: BATCH_AT_ONCE }, answerSome));
    const told = answers.filter((answer) => answer !== null);
    return told.length === 0 ? null : `[${told.join(',')}]`;
  }

  async #answerOne(value: unknown, context: CallContext): Promise<string | null> {
    const request = requestSchema.safeParse(value);
    if (!request.success) return refusal('rpc-no-request', 'Invalid Request', idOf(value));
    const response = await this.#server.receive(value as JSONRPCRequest, context);
    return response === null ? null : textOf(response);
  }

  /** What went wrong inside is for whoever looks after the daemon, too. */
  async #told(method: string, call: () => unknown): Promise<unknown> {
    try {
      return await call();
    } catch (error) {
      if (codeOf(error) === 'internal')
        this.#log.warn({ err: error, method }, 'a call ended with a defect of ours');
      throw error;
    }
  }
}

/** An answer to what is no request, or is not looked at. */
export function refusal(
  code: 'rpc-no-json' | 'rpc-no-request' | 'daemon-busy' | 'daemon-stopping',
  message: string,
  id: JSONRPCID = null,
): string {
  return JSON.stringify(errorResponse(id, new QmpvaultError(code, message)));
}

function tooMuch(request: unknown): string | null {
  const id = idOf(request);
  return id === undefined
    ? null
    : refusal('daemon-busy', 'the answers to this batch grew too long: ask again', id);
}

function errorResponse(id: JSONRPCID, error: unknown): JSONRPCErrorResponse {
  const { code, message, details } = errorJson(error);
  return createJSONRPCErrorResponse(id, CODES[code][1], message, { code, details });
}

function textOf(response: JSONRPCResponse): string {
  try {
    return JSON.stringify(response);
  } catch (error) {
    return JSON.stringify(errorResponse(response.id, error));
  }
}

/** Also of what is no request as a whole; undefined where there is none, or none that can be answered. */
function idOf(value: unknown): JSONRPCID | undefined {
  const id = typeof value === 'object' && value !== null && 'id' in value ? value.id : undefined;
  return typeof id === 'string' || typeof id === 'number' || id === null ? id : undefined;
}

function cut(text: string): string {
  return text.length > 100 ? `${text.slice(0, 100)}…` : text;
}
