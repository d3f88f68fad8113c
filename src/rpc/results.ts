/**
 * What the operations answer, as JSON: `--json` of the command line prints it and the daemon's methods return it. These
 * shapes are promises to those who script against them: members may be added, none is renamed, removed or given another
 * meaning. Whoever reads them must let members pass that he does not know.
 */
import { z } from 'zod';
import { RULES } from './params.ts';

/** What comes out of a schema, and is not to be changed by who gets it. */
export type Json<S extends z.ZodType> = DeepReadonly<z.output<S>>;
type DeepReadonly<T> = T extends (infer E)[]
  ? readonly DeepReadonly<E>[]
  : T extends object
    ? { readonly [K in keyof T]: DeepReadonly<T[K]> }
    : T;

const bytes = (what: string) =>
  z
    .int()
    .nonnegative()
    .meta({ description: `${what}, in bytes` });
const ms = (what: string) =>
  z
    .number()
    .nonnegative()
    .meta({ description: `${what}, in milliseconds` });
const text = (what: string) => z.string().meta({ description: what });
export const moment = (what: string) => z.iso.datetime().meta({ description: `${what}, UTC` });
const vmName = text('the name of the VM');
const diskName = text('the name of the disk');
const pointId = text('the id of the point');
export const warnings = z.array(z.string()).meta({
  description: 'what was not as it should be, in words; nothing of it kept the work from being done',
});
export const kind = z
  .enum(['full', 'incremental'])
  .meta({ description: 'full: holds everything; incremental: what changed since its parent' });

export const pointDisk = z
  .object({
    name: diskName,
    file: text("its qcow2 file in the point's folder"),
    virtualSizeBytes: bytes('the size that the guest sees'),
    copiedBytes: bytes('what was read for this point'),
    storedBytes: bytes('the length of the file'),
    sha256: z
      .string()
      .nullable()
      .meta({ description: 'of the file, lower-case hex; null while it is pending' }),
  })
  .meta({ id: 'PointDisk', description: 'one disk in a restore point' });

export const point = z
  .object({
    id: pointId,
    vm: vmName,
    kind,
    how: z
      .enum([
        'first',
        'requested',
        'cadence',
        'chain-sealed',
        'disks-changed',
        'bitmap-lost',
        'tracked',
        'resynced',
        'branched',
      ])
      .meta({
        description:
          'why it is a full (first, requested, cadence, chain-sealed, disks-changed, bitmap-lost) or how the changes of an incremental were found: tracked by bitmaps, resynced by comparing, branched from an older point',
      }),
    why: text('`how` in words'),
    parent: z.string().nullable().meta({ description: 'the point that it stands on; null for a full' }),
    createdAt: moment('the moment that its disks show'),
    consistency: z.enum(['crash', 'filesystem']).meta({
      description: 'filesystem: frozen by the guest agent; crash: as after a power failure',
    }),
    sealed: z.boolean().meta({ description: 'the next backup does not stand on it' }),
    protected: z.boolean().meta({ description: 'never chosen by prune, refused by delete' }),
    disks: z.array(pointDisk),
    timings: z.object({
      freezeMs: ms('how long the filesystems were frozen').nullable(),
      pauseMs: ms('how long the VM was paused').nullable(),
      copyMs: ms('how long was copied'),
      totalMs: ms('how long it all took'),
    }),
  })
  .meta({ id: 'Point', description: "the vault's record of all of a VM's disks at one moment" });

const leftOut = z
  .array(z.object({ name: diskName, why: z.string() }))
  .meta({ description: 'disks of the VM that are not in it' });

export const initResult = z.object({
  vault: z.object({ id: text('32 hex digits'), path: text('its folder') }),
});

export const backupResult = z.object({ point, warnings });

export const listResult = z.object({
  points: z.array(point).meta({ description: 'oldest first' }),
  warnings,
});

export const showResult = z.object({
  point: point
    .extend({
      uuid: text('of the VM'),
      disks: z.array(pointDisk.extend({ kind })),
      left: leftOut,
      versions: z.object({ engine: z.string(), qemu: z.string(), format: z.int() }),
    })
    .meta({ id: 'PointDetails', description: 'a point with what only one at a time is asked for' }),
  chain: z.array(z.string()).meta({
    description: 'the ids of the points it needs, from the full to itself; empty if that is broken',
  }),
  chainTrouble: z.string().optional().meta({ description: 'why the chain cannot be told' }),
});

export const chainResult = z.object({
  vm: vmName,
  points: z.array(point).meta({ description: 'oldest first; each names its parent' }),
  broken: z.array(z.string()).meta({ description: 'the ids of points that cannot be read' }),
  warnings,
});

export const restoreResult = z.object({
  restored: z.array(
    z.object({
      disk: diskName,
      path: text('the file or block device that holds it now'),
      virtualSizeBytes: bytes('its size'),
    }),
  ),
  kept: z
    .array(z.string())
    .optional()
    .meta({ description: 'of a restore in place: the old images, under their new names' }),
  hold: z.string().optional().meta({ description: 'of an instant restore: what keeps its point as it is' }),
  warnings,
});

const diskImage = z.object({ disk: diskName, path: text('its image') });

export const fillResult = z.object({
  filled: z.array(diskImage).meta({ description: 'what needs the vault no more' }),
  left: z
    .array(diskImage.extend({ host: text('where it is') }))
    .meta({ description: 'what other VMs run on since instant restores' }),
});

const hold = z
  .object({
    id: text('its id'),
    point: pointId,
    what: text('what it is for'),
    host: text('where its files are'),
    since: moment('when it was made'),
    disks: z.array(diskImage).meta({ description: 'those that still need the point' }),
  })
  .meta({
    id: 'Hold',
    description: 'files outside of the vault that stand on a point, which stays as it is',
  });

export const holdsResult = z.object({
  holds: z.array(hold).meta({ description: 'those that are there now' }),
  ended: z.array(hold),
});

export const verifyResult = z.object({
  checked: z.int().nonnegative().meta({ description: 'how many points were looked at' }),
  damaged: z.array(
    z.object({
      vm: vmName,
      point: pointId,
      disk: z.string().nullable().meta({ description: 'null: it is not about one disk' }),
      what: text('the damage, in words'),
      affects: z
        .array(z.string())
        .meta({ description: 'the points that cannot be restored as they were because of it' }),
    }),
  ),
  booted: z
    .array(
      z.object({
        vm: vmName,
        point: pointId,
        at: moment('when'),
        answer: z.enum(['agent', 'line']).nullable().meta({ description: 'who answered; null: nobody did' }),
        what: text('what was said, or how it ended instead'),
        tookMs: z.number().nonnegative(),
        accelerator: text('kvm or tcg'),
      }),
    )
    .meta({ description: 'the points from which a guest was booted' }),
  warnings,
});

const removed = z.array(z.string()).meta({ description: 'the ids of the points that are gone' });
const freedBytes = bytes('what was deleted');
const mergedBytes = bytes('how much of it was, at most, merged into other points');

export const deleteResult = z.object({
  removed,
  changed: z.array(point).meta({ description: 'points that stand on another one now, or are fulls' }),
  freedBytes,
  mergedBytes,
});

export const rebaseResult = z.object({
  changed: z.array(point).meta({ description: 'the point, if it did not stand there already' }),
});

export const pruneResult = z.object({
  kept: z
    .array(
      z.object({
        id: pointId,
        reasons: z.array(z.enum([...RULES, 'protected'])).meta({ description: 'the rules that keep it' }),
      }),
    )
    .meta({ description: 'newest first' }),
  removed,
  freedBytes,
  mergedBytes,
  dryRun: z.boolean().meta({ description: 'nothing was done: this is what would be' }),
  warnings,
});

/** Of `protect` and of sealing. */
export const pointResult = z.object({ point });

export const inspectResult = z.object({
  vm: z.object({
    name: vmName,
    uuid: text('empty if the VM has none'),
    qemu: text("QEMU's version"),
    state: text("QEMU's run state, such as running or paused; stopped if no QEMU runs"),
  }),
  disks: z.array(
    z.object({
      name: diskName,
      format: text('of its image'),
      image: text('the path of its image'),
      sizeBytes: bytes('the size that the guest sees'),
      device: text('what the guest sees it through'),
      bitmap: z.object({
        state: z.enum(['tracked', 'lost', 'unknown']).meta({
          description:
            'tracked: changes since a point are known; lost: the disk is read and compared; unknown: no vault was named',
        }),
        words: z.string(),
      }),
      warnings,
    }),
  ),
  left: leftOut,
  next: z
    .object({ kind, how: point.shape.how, why: z.string() })
    .nullable()
    .meta({ description: 'what the next backup will be; null when no vault was named' }),
  warnings,
});

const listedBitmap = z
  .object({
    node: text('the node in the block graph of QEMU'),
    image: text('the image it is on'),
    name: text('the name of the bitmap'),
    owner: z.enum(['newest', 'older', 'orphan', 'run', 'other-vault', 'foreign']).meta({
      description:
        'newest: tells the changes since the newest point; older: since another; orphan: of no point and no run; run: of one at work; the others are not ours to touch',
    }),
    point: z.string().nullable().meta({ description: 'the point since which it tells the changes' }),
    countBytes: bytes('how much it says was changed'),
    words: z.string(),
  })
  .meta({ id: 'Bitmap', description: 'a dirty bitmap in a running VM' });

export const bitmapsResult = z.object({
  bitmaps: z.array(listedBitmap).meta({ description: 'those that are there now' }),
  removed: z.array(listedBitmap),
  warnings,
});

export const statsResult = z.object({
  vault: initResult.shape.vault,
  totalBytes: bytes('the size of its filesystem'),
  freeBytes: bytes('what is free there'),
  storedBytes: bytes('what all points take'),
  vms: z.array(
    z.object({
      name: vmName,
      points: z.int().nonnegative(),
      broken: z.int().nonnegative().meta({ description: 'points that cannot be read' }),
      newest: z.object({ id: pointId, createdAt: moment('the moment that it shows') }).nullable(),
      storedBytes: bytes('what its points take'),
    }),
  ),
});

export const serveResult = z
  .object({
    vm: vmName,
    point: pointId,
    socket: text('the path of the unix socket'),
    exports: z.array(
      z.object({
        disk: text('the name of the disk, and of the export'),
        uri: text('for qemu-img, nbdinfo and the like'),
        virtualSizeBytes: bytes('its size'),
      }),
    ),
    warnings,
  })
  .meta({ description: 'the disks of a point, served over NBD, read-only' });

/** What each operation answers, under the name that it has in src/operations. */
export const RESULTS = {
  init: initResult,
  backup: backupResult,
  inspect: inspectResult,
  bitmaps: bitmapsResult,
  list: listResult,
  show: showResult,
  chain: chainResult,
  restore: restoreResult,
  fill: fillResult,
  holds: holdsResult,
  verify: verifyResult,
  protect: pointResult,
  delete: deleteResult,
  rebase: rebaseResult,
  prune: pruneResult,
  seal: pointResult,
  stats: statsResult,
  serve: serveResult,
} as const;

export type ResultName = keyof typeof RESULTS;
export type ResultJson<N extends ResultName> = Json<(typeof RESULTS)[N]>;
