/** A vault on a share that is mounted for one operation alone, and the backups of orchestrators that keep their own there. */
import { z } from 'zod';
import { pointId } from '../base/ids.ts';
import {
  descendantsParam,
  diskPathsParam,
  newPointParam,
  quiesceParam,
  selectorParam,
  vmParam,
} from './params.ts';

export const shareParam = z
  .strictObject({
    // mount(8) would take a dash for an option.
    type: z
      .string()
      .regex(/^[a-z][a-z0-9._-]*$/)
      .meta({ description: 'as mount -t takes it; path: the address is a folder' }),
    address: z.string().regex(/^[^-]/).meta({ description: 'such as nas:/export' }),
    options: z.string().default('').meta({ description: 'as mount -o takes them' }),
    mountTimeoutMs: z.int().positive().default(60_000),
  })
  .refine(({ type, address }) => type !== 'path' || address.startsWith('/'), {
    path: ['address'],
    message: 'of the type path it must be an absolute path',
  })
  .meta({ id: 'Share', description: 'where the vault is, mounted for this run alone' });

export type Share = z.output<typeof shareParam>;

/** What the vault on it is called among others. */
export function nameOf({ type, address }: Pick<Share, 'type' | 'address'>): string {
  return `${type}:${address}`;
}

/** What of a backup an orchestrator may say that keeps accounts of its own. */
export const ownAccounts = {
  instance: z
    .string()
    .min(1)
    .optional()
    .meta({ description: 'the name by which its QEMU is looked for, where no socket of it is known' }),
  naming: z.enum(['device', 'image']).optional().meta({ description: 'by what its disks are called' }),
  images: diskPathsParam.optional().meta({ description: 'the images of a stopped VM, by disk' }),
  onlyImages: z.boolean().optional().meta({ description: 'images names all disks there are' }),
  freezeMs: z
    .int()
    .positive()
    .optional()
    .meta({ description: 'how long the guest agent may take to freeze' }),
  files: z.array(z.string().includes('{disk}')).min(1).optional().meta({
    description: "names of the disks' files in the point, in order, the last one for all that follow",
  }),
  parent: z
    .strictObject({ point: z.string().transform((id) => pointId(id)), bitmapAlias: z.string().optional() })
    .optional()
    .meta({ description: 'what it is to stand on; else it is a full' }),
  bitmapAlias: z.string().min(1).optional().meta({ description: 'what the caller calls its bitmaps' }),
  beside: z.record(z.string(), z.string()).optional().meta({
    description: 'texts to lie beside the images, by file name',
  }),
  againMs: z.int().nonnegative().optional().meta({
    description:
      'asked for again, it is not made again: whoever changes the points of the VM is waited for, so long; and the point, if it is there then, is the result',
  }),
};

const init = z.boolean().optional().meta({ description: 'make the vault when it is missing' });

export const shareBackup = z.strictObject({
  vault: shareParam,
  init,
  vm: vmParam,
  point: newPointParam,
  ...ownAccounts,
  full: z.boolean().optional().meta({ description: 'begin a new chain' }),
  fullEvery: z.int().optional().meta({ description: 'a chain with so many points is not extended' }),
  quiesce: quiesceParam.optional(),
  bandwidth: z.number().positive().optional().meta({ description: 'bytes per second, over all disks' }),
});

export const shareDelete = z.strictObject({
  vault: shareParam,
  init,
  vm: vmParam,
  point: selectorParam,
  exact: z.boolean().optional().meta({ description: 'only an id will do' }),
  descendants: descendantsParam.optional(),
  waitMs: z.int().nonnegative().optional().meta({ description: 'for who reads or changes it now' }),
});
