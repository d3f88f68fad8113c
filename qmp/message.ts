/**
 * What QEMU sends (docs/interop/qmp-spec.rst), and the classification of an unknown value into it. The value comes
 * from another process: nothing is taken on trust.
 */

export interface QmpVersion {
  readonly major: number;
  readonly minor: number;
  readonly micro: number;
  /** `7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)`: for people; what a QEMU can do is asked from its schema. */
  readonly text: string;
}

export interface QmpEvent {
  readonly name: string;
  readonly data: Readonly<Record<string, unknown>>;
  /** QEMU's wall clock; negative where it could not read it (the spec's -1). */
  readonly timeMs: number;
}

export type Message =
  | { readonly kind: 'greeting'; readonly version: QmpVersion; readonly capabilities: readonly string[] }
  | { readonly kind: 'return'; readonly id: unknown; readonly value: unknown }
  | { readonly kind: 'error'; readonly id: unknown; readonly class: string; readonly description: string }
  | { readonly kind: 'event'; readonly event: QmpEvent }
  | { readonly kind: 'invalid'; readonly reason: string };

export function classify(value: unknown): Message {
  if (!isRecord(value)) return invalid('not an object');
  if ('QMP' in value) return greeting(value['QMP']);
  if ('event' in value) return event(value);
  if ('error' in value) return failure(value);
  if ('return' in value) return { kind: 'return', id: value['id'], value: value['return'] };
  return invalid('neither a greeting, nor a reply, nor an event');
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function greeting(body: unknown): Message {
  if (!isRecord(body) || !isRecord(body['version'])) return invalid('a greeting without a version');
  const { qemu, package: packaged } = body['version'];
  if (!isRecord(qemu)) return invalid('a greeting without a version');
  const { major, minor, micro } = qemu;
  if (typeof major !== 'number' || typeof minor !== 'number' || typeof micro !== 'number') {
    return invalid('a greeting without a version');
  }
  const capabilities = Array.isArray(body['capabilities']) ? body['capabilities'] : [];
  const suffix = typeof packaged === 'string' && packaged !== '' ? ` (${packaged})` : '';
  return {
    kind: 'greeting',
    version: { major, minor, micro, text: `${major}.${minor}.${micro}${suffix}` },
    capabilities: capabilities.filter((name) => typeof name === 'string'),
  };
}

function event({ event: name, data = {}, timestamp }: Record<string, unknown>): Message {
  if (typeof name !== 'string' || !isRecord(data)) return invalid('an event without name or data');
  if (!isRecord(timestamp)) return invalid('an event without a timestamp');
  const { seconds, microseconds } = timestamp;
  if (typeof seconds !== 'number' || typeof microseconds !== 'number') {
    return invalid('an event without a timestamp');
  }
  return { kind: 'event', event: { name, data, timeMs: seconds * 1000 + microseconds / 1000 } };
}

function failure({ error, id }: Record<string, unknown>): Message {
  if (!isRecord(error) || typeof error['class'] !== 'string' || typeof error['desc'] !== 'string') {
    return invalid('an error without class or description');
  }
  return { kind: 'error', id, class: error['class'], description: error['desc'] };
}

function invalid(reason: string): Message {
  return { kind: 'invalid', reason };
}
