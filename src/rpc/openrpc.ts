/** The table of methods as an OpenRPC document (https://spec.open-rpc.org), made from the schemas that check the calls. */
import { z } from 'zod';
import { CODES, type ErrorCode } from '../base/errors.ts';
import { VERSION } from '../base/version.ts';
import { METHODS, type Method, NOTIFICATIONS } from './methods.ts';

/** As far as this document uses it. */
export interface JsonSchema {
  readonly $ref?: string;
  readonly type?: string | readonly string[];
  readonly description?: string;
  readonly format?: string;
  readonly enum?: readonly unknown[];
  readonly const?: unknown;
  readonly anyOf?: readonly JsonSchema[];
  readonly items?: JsonSchema;
  readonly properties?: Readonly<Record<string, JsonSchema>>;
  readonly required?: readonly string[];
  readonly additionalProperties?: boolean | JsonSchema;
  readonly propertyNames?: JsonSchema;
  readonly [keyword: string]: unknown;
}

export interface ContentDescriptor {
  readonly name: string;
  readonly description?: string | undefined;
  readonly required?: boolean;
  readonly schema: JsonSchema;
}

interface Described {
  readonly name: string;
  readonly summary: string;
  readonly paramStructure: 'by-name';
  readonly params: readonly ContentDescriptor[];
}

export interface OpenRpcDocument {
  readonly openrpc: string;
  readonly info: Readonly<Record<string, unknown>>;
  readonly methods: readonly (Described & {
    readonly result: ContentDescriptor;
    readonly errors: readonly { readonly $ref: string }[];
  })[];
  /** OpenRPC has no word for what a server sends unasked. */
  readonly 'x-notifications': readonly Described[];
  readonly components: {
    readonly schemas: Readonly<Record<string, JsonSchema>>;
    readonly errors: Readonly<Record<string, ErrorObject>>;
  };
}

interface ErrorObject {
  readonly code: number;
  readonly message: string;
  readonly data: { readonly code: ErrorCode };
  readonly 'x-exit-code': number;
}

let made: OpenRpcDocument | undefined;

export function openRpcDocument(): OpenRpcDocument {
  made ??= make();
  return made;
}

function make(): OpenRpcDocument {
  const schemas: Record<string, JsonSchema> = {};
  const describe = (name: string, summary: string, params: z.ZodType): Described => {
    const { properties = {}, required = [] } = jsonSchema(params, schemas);
    return {
      name,
      summary,
      paramStructure: 'by-name',
      params: Object.entries(properties).map(([name, { description, ...schema }]) => ({
        name,
        description,
        required: required.includes(name),
        schema,
      })),
    };
  };
  const methods = Object.entries<Method>(METHODS).map(([name, { summary, params, result, errors }]) => ({
    ...describe(name, summary, params),
    result: { name: 'result', schema: jsonSchema(result, schemas) },
    errors: errors.map((code) => ({ $ref: `#/components/errors/${code}` })),
  }));
  const notifications = Object.entries(NOTIFICATIONS).map(([name, { summary, params }]) =>
    describe(name, summary, params),
  );
  return {
    openrpc: '1.3.2',
    info: {
      title: 'qmpvault',
      version: VERSION,
      description: 'Backups of QEMU virtual machines. JSON-RPC 2.0 on a unix socket, one document per line.',
      license: { name: 'Apache-2.0' },
    },
    methods,
    'x-notifications': notifications,
    components: { schemas, errors: errorObjects() },
  };
}

function errorObjects(): Record<string, ErrorObject> {
  return Object.fromEntries(
    Object.entries(CODES).map(([code, [exitCode, number, message]]) => [
      code,
      { code: number, message, data: { code: code as ErrorCode }, 'x-exit-code': exitCode },
    ]),
  );
}

/** Schemas with a name of their own go to `named`, and are referred to. */
function jsonSchema(schema: z.ZodType, named: Record<string, JsonSchema>): JsonSchema {
  // Inside of something a schema with a name becomes a reference, at the top it would not.
  const inside = z.toJSONSchema(z.object({ it: schema }), {
    io: 'input',
    target: 'draft-7',
    override: plain,
  });
  const { properties, definitions = {} } = JSON.parse(
    JSON.stringify(inside).replaceAll('"#/definitions/', '"#/components/schemas/'),
  ) as { properties: { it: JsonSchema }; definitions?: Record<string, JsonSchema> };
  Object.assign(named, definitions);
  return properties.it;
}

/** Zod bounds every integer by what a double can count, and writes leap years out: that would only be noise. */
function plain({ jsonSchema }: { jsonSchema: Record<string, unknown> }): void {
  if (jsonSchema['maximum'] === Number.MAX_SAFE_INTEGER) delete jsonSchema['maximum'];
  if (jsonSchema['minimum'] === Number.MIN_SAFE_INTEGER) delete jsonSchema['minimum'];
  if (jsonSchema['format'] === 'date-time') delete jsonSchema['pattern'];
}
