/** What comes from outside: parameters that several methods or operations share, and how wrong ones are told. */
import { z } from 'zod';
import { QmpvaultError } from '../base/errors.ts';
import { diskName, pointId, vmName } from '../base/ids.ts';
import { parseRate } from '../base/units.ts';

/** Of retention, as src/upkeep knows them. */
export const RULES = ['last', 'hourly', 'daily', 'weekly', 'monthly', 'yearly'] as const;

// Names are checked as they are read: the error is name-invalid then, which says more than that a parameter is wrong.
export const vmParam = z
  .string()
  .transform((name) => vmName(name))
  .meta({ description: 'the name of the VM' });
export const diskParam = z
  .string()
  .transform((name) => diskName(name))
  .meta({ description: 'the name of the disk' });
export const newPointParam = z
  .string()
  .transform((id) => pointId(id))
  .meta({ description: 'the id of the new point; default: made of the time' });
export const selectorParam = z
  .string()
  .min(1)
  .meta({ description: "an id, a unique beginning of one, or 'latest'" });
export const diskPathsParam = z
  .record(
    z.string().refine((name) => diskName(name)),
    z.string().min(1),
  )
  .meta({ description: 'names of disks, with a path for each' });
export const quiesceParam = z.enum(['auto', 'required', 'off']).meta({
  description:
    'whether the guest agent freezes the filesystems for the moment; required: the backup fails when it cannot',
});
export const rateParam = z
  .union([z.number().positive(), z.string().transform((text) => parseRate(text))])
  .meta({ description: 'bytes per second, or a text such as 20MiB/s' });
export const levelParam = z
  .enum(['quick', 'deep'])
  .meta({ description: 'deep: every byte is read and compared with its digest' });
export const bootParam = z.strictObject({
  line: z
    .string()
    .min(1)
    .refine((text) => asRegExp(text) !== null, 'is no regular expression')
    .optional()
    .meta({
      description:
        'a regular expression: what the guest must say on its serial console; default: its guest agent has to answer',
    }),
  timeoutMs: z.int().positive().default(300_000).meta({ description: 'how long it is waited for' }),
  memoryBytes: z
    .int()
    .positive()
    .default(1024 ** 3)
    .meta({ description: 'of the guest' }),
  bus: z
    .enum(['virtio', 'scsi', 'sata', 'nvme'])
    .default('virtio')
    .meta({ description: 'what its disks hang on' }),
  args: z.array(z.string()).default([]).meta({
    description: 'more arguments of QEMU, such as -bios for a firmware; they come last and so overrule',
  }),
});
export const keepParam = z.partialRecord(z.enum(RULES), z.int().positive()).meta({
  description: 'how many points each rule keeps',
});
export const cacheParam = z.boolean().default(true).meta({
  description: 'false: every manifest is read, also those that have not changed since they were listed last',
});
export const formatParam = z.enum(['qcow2', 'raw']).meta({ description: 'of what is written' });
export const descendantsParam = z.enum(['refuse', 'keep', 'delete']).meta({
  description:
    'of a full with points on it: keep: its first child becomes the full; delete: all that need it go too; refuse: error points-would-be-lost',
});

function asRegExp(text: string): RegExp | null {
  try {
    return new RegExp(text);
  } catch {
    return null;
  }
}

/** Nobody reads more of them, and a hostile peer would have its megabyte sent back. */
const PROBLEMS_MAX = 10;
const TEXT_MAX = 100;

/** @throws usage naming each wrong member; name-invalid */
export function parseParams<S extends z.ZodType>(schema: S, params: unknown): z.output<S> {
  const parsed = schema.safeParse(params, { reportInput: true });
  if (parsed.success) return parsed.data;
  const problems = parsed.error.issues.slice(0, PROBLEMS_MAX).map((issue) => problemOf(issue, schema));
  throw new QmpvaultError('usage', problems.join('; '), { details: { problems } });
}

function problemOf(issue: z.core.$ZodIssue, schema: z.ZodType): string {
  const member = cut(issue.path.join('.')) || 'parameters';
  if (issue.code === 'unrecognized_keys') {
    const unknown = issue.keys.map((key) => cut(key)).slice(0, PROBLEMS_MAX);
    const known = schema instanceof z.ZodObject && issue.path.length === 0 ? Object.keys(schema.shape) : [];
    const hint = known.length > 0 ? `; there are ${known.join(', ')}` : '';
    return `${member}: unknown ${unknown.join(', ')}${hint}`;
  }
  if (issue.input === undefined && issue.path.length > 0) return `${member}: is missing`;
  return `${member}: ${issue.message}`;
}

function cut(text: string): string {
  return text.length > TEXT_MAX ? `${text.slice(0, TEXT_MAX)}…` : text;
}
