/**
 * What this QEMU can do, read from its own schema and never from its version: distributions backport and compile
 * out. In the schema only commands, events and builtin types have their names; every other type has a number.
 */
import type { QmpClient } from './client.ts';
import type { Bound } from './deadline.ts';
import { QmpError } from './errors.ts';
import { isRecord } from './message.ts';

export interface Capabilities {
  /** blockdev-add copy-before-write, QEMU 6.2 */
  readonly copyBeforeWrite: boolean;
  /** blockdev-add snapshot-access, 7.0 */
  readonly snapshotAccess: boolean;
  /** on-cbw-error and cbw-timeout of copy-before-write, 7.1 */
  readonly cbwErrorPolicy: boolean;
  /** discard-source of blockdev-backup, 9.1 */
  readonly discardSource: boolean;
  /** x-perf of blockdev-backup, 6.0 */
  readonly backupTuning: boolean;
  /** 2.3 */
  readonly blockdevBackup: boolean;
  /** persistent of block-dirty-bitmap-add, 2.10 */
  readonly bitmapPersistence: boolean;
  /** completion-mode of transaction, 2.5 */
  readonly groupedCompletion: boolean;
  /** 6.0 */
  readonly yank: boolean;
  /** 6.1; x-blockdev-reopen before */
  readonly blockdevReopen: boolean;
  /** 5.2 */
  readonly blockExportAdd: boolean;
  readonly nbdServer: boolean;
  /** aio=io_uring of file; needs QEMU 5.0 and a build with liburing */
  readonly ioUring: boolean;
}

/** @throws qmp-protocol where the schema is no schema, and what QmpClient.execute() throws */
export async function probeCapabilities(
  client: QmpClient,
  { timeoutMs, signal }: Bound = {},
): Promise<Capabilities> {
  return readCapabilities(await client.execute('query-qmp-schema', undefined, { timeoutMs, signal }));
}

export function readCapabilities(reply: unknown): Capabilities {
  const schema = new Schema(reply);
  const node = schema.argumentsOf('blockdev-add');
  const filter = schema.variant(node, 'copy-before-write');
  const backup = schema.argumentsOf('blockdev-backup');
  const properties = schema.memberType(schema.argumentsOf('transaction'), 'properties');
  const aio = schema.memberType(schema.variant(node, 'file'), 'aio');
  return {
    copyBeforeWrite: filter !== undefined,
    snapshotAccess: schema.variant(node, 'snapshot-access') !== undefined,
    cbwErrorPolicy: schema.hasMember(filter, 'on-cbw-error'),
    discardSource: schema.hasMember(backup, 'discard-source'),
    backupTuning: schema.hasMember(backup, 'x-perf'),
    blockdevBackup: backup !== undefined,
    bitmapPersistence: schema.hasMember(schema.argumentsOf('block-dirty-bitmap-add'), 'persistent'),
    groupedCompletion: schema.hasMember(properties, 'completion-mode'),
    yank: schema.argumentsOf('yank') !== undefined,
    blockdevReopen: schema.argumentsOf('blockdev-reopen') !== undefined,
    blockExportAdd: schema.argumentsOf('block-export-add') !== undefined,
    nbdServer: schema.argumentsOf('nbd-server-start') !== undefined,
    ioUring: schema.hasValue(aio, 'io_uring'),
  };
}

/** Whether a value, as one that was kept in a file, tells all that is asked of a QEMU today. */
export function isCapabilities(value: unknown): value is Capabilities {
  if (!isRecord(value)) return false;
  return Object.keys(readCapabilities([])).every((name) => typeof value[name] === 'boolean');
}

type Entity = Readonly<Record<string, unknown>>;

/** qapi/introspect.json: entities that refer to each other by name. What is missing is undefined, all the way. */
class Schema {
  readonly #entities = new Map<unknown, Entity>();

  constructor(reply: unknown) {
    if (!Array.isArray(reply)) throw new QmpError('qmp-protocol', 'query-qmp-schema returned no list');
    for (const entity of reply.filter(isRecord)) this.#entities.set(entity['name'], entity);
  }

  argumentsOf(command: string): Entity | undefined {
    return this.#entities.get(this.#entities.get(command)?.['arg-type']);
  }

  memberType(object: Entity | undefined, member: string): Entity | undefined {
    return this.#entities.get(find(object?.['members'], 'name', member)?.['type']);
  }

  hasMember(object: Entity | undefined, member: string): boolean {
    return find(object?.['members'], 'name', member) !== undefined;
  }

  /** Before 6.2 an enum has only `values`, which is deprecated since. */
  hasValue(enumeration: Entity | undefined, value: string): boolean {
    const values = enumeration?.['values'];
    return this.hasMember(enumeration, value) || (Array.isArray(values) && values.includes(value));
  }

  variant(object: Entity | undefined, tag: string): Entity | undefined {
    return this.#entities.get(find(object?.['variants'], 'case', tag)?.['type']);
  }
}

function find(list: unknown, key: string, value: string): Entity | undefined {
  return Array.isArray(list) ? list.filter(isRecord).find((entry) => entry[key] === value) : undefined;
}
