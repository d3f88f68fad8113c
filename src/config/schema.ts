/** What may stand in the configuration file. What belongs together across sections is looked at by cross-checks.ts. */
import { z } from 'zod';
import { LOG_LEVELS } from '../base/log.ts';
import { GiB } from '../base/units.ts';
import { RULES } from '../upkeep/retention.ts';
import {
  count,
  duration,
  folderInside,
  group,
  oneOf,
  path,
  port,
  rate,
  regularExpression,
  schedule,
  secret,
  size,
  socket,
  text,
  timeZone,
  webhook,
  window,
} from './values.ts';

/** Its keys and no others. An empty one (all of it commented out) is one without keys. */
function section<S extends z.ZodRawShape>(shape: S) {
  const keys = Object.keys(shape).join(', ');
  const schema = z.strictObject(shape, {
    error: (issue) =>
      issue.code === 'unrecognized_keys' ? `unknown key\n${keys}` : `not a section with keys\n${keys}`,
  });
  return z.preprocess((value) => value ?? {}, schema);
}

/** Of which exactly one stands there; asked also when something else is wrong. */
function oneKeyOf<S extends z.ZodType>(schema: S, ...keys: readonly string[]): S {
  return schema.refine(
    (value) => typeof value !== 'object' || value === null || keys.filter((key) => key in value).length === 1,
    {
      when: () => true,
      error: `exactly one of its keys ${keys.join(' and ')} must be there\n${keys.join(', or ')}`,
    },
  );
}

function named<S extends z.ZodType>(schema: S) {
  const names = z.record(z.string(), schema, {
    error: 'not a section of names\na name, and what it stands for',
  });
  return z.preprocess((value) => value ?? {}, names);
}

function listOf<S extends z.ZodType>(schema: S) {
  return z.preprocess((value) => value ?? [], z.array(schema, { error: 'not a list\na list: [ …, … ]' }));
}

/** One, or a list of several. */
function oneOrMore<S extends z.ZodType>(schema: S) {
  return z.preprocess(
    (value) => (Array.isArray(value) ? value : value == null ? [] : [value]),
    z.array(schema),
  );
}

const vault = oneKeyOf(
  section({
    path: path.optional(),
    mount: section({
      type: oneOf('nfs', 'cifs'),
      source: text,
      options: secret.optional(),
      point: path.optional(),
      folder: folderInside.default('.'),
      idle: duration.default(0),
    }).optional(),
  }),
  'path',
  'mount',
);

const keep = section(Object.fromEntries(RULES.map((rule) => [rule, count.optional()])) as KeepShape);
type KeepShape = Record<(typeof RULES)[number], z.ZodOptional<typeof count>>;

const boot = section({
  line: regularExpression.optional(),
  timeout: duration.default(300_000),
  memory: size.default(GiB),
  bus: oneOf('virtio', 'scsi', 'sata', 'nvme').default('virtio'),
  args: listOf(text).prefault([]),
});

/** Of the defaults, and of each VM in their place. A section that a VM has replaces all of the default one. */
const settings = {
  vault: text.optional(),
  fullEvery: count.optional(),
  schedule: schedule.optional(),
  timeZone: timeZone.optional(),
  jitter: duration.optional(),
  quiesce: oneOf('auto', 'required', 'off').optional(),
  keep: keep.optional(),
  maxChain: count.optional(),
  prune: section({ schedule }).optional(),
  verify: section({
    schedule,
    oldest: count.default(1),
    level: oneOf('quick', 'deep').default('quick'),
    boot: boot.optional(),
  }).optional(),
  blackout: listOf(window).optional(),
  retries: section({
    attempts: count.default(5),
    first: duration.default(60_000),
    longest: duration.default(3_600_000),
  }).optional(),
};

/** Also of `vm.add`. */
export const vmSchema = section({
  ...settings,
  qmp: socket.optional(),
  agent: socket.optional(),
  disks: named(path).optional(),
  exclude: listOf(text).optional(),
});

const commandLine = z.preprocess(
  (value) => value ?? [],
  z
    .array(text, { error: 'not a list\na program and its arguments: [ PROGRAM, … ]' })
    .min(1, { error: 'no program\na program and its arguments: [ PROGRAM, … ]' }),
);

const hook = oneKeyOf(
  section({
    command: commandLine.optional(),
    webhook: webhook.optional(),
    timeout: duration.default(30_000),
  }),
  'command',
  'webhook',
);

export const fileSchema = section({
  vaults: named(vault),
  scratch: section({
    path: path.default('/var/lib/qmpvault/scratch'),
    limit: size.optional(),
  }).prefault({}),
  rpc: section({ socket: socket.default('/run/qmpvault/rpc.sock'), group: group.optional() }).prefault({}),
  limits: section({
    runs: count.default(2),
    perVault: count.optional(),
    bandwidth: rate.optional(),
    clients: count.default(64),
  }).prefault({}),
  defaults: section(settings).prefault({}),
  vms: named(vmSchema).prefault({}),
  discover: listOf(path).prefault([]),
  metrics: oneKeyOf(
    section({ port: port.optional(), socket: socket.optional() }),
    'port',
    'socket',
  ).optional(),
  hooks: section({
    onSuccess: oneOrMore(hook).prefault([]),
    onFailure: oneOrMore(hook).prefault([]),
  }).prefault({}),
  log: section({ level: oneOf(...LOG_LEVELS).default('info') }).prefault({}),
});

export type FileConfig = z.output<typeof fileSchema>;
export type VmWish = z.output<typeof vmSchema>;
