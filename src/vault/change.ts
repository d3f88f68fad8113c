/**
 * journal.json: a change of published files that takes several steps. It says what is to be reached and not what
 * was done: that the files tell themselves, so each step can be repeated, by whoever takes the lease next.
 *
 * A merge moves what its children need of a point that goes. While it is `gathering`, nothing that a header or a
 * manifest says has changed, and it can be undone. From `switching` on it can only be finished: then, of a file that
 * is moved, the header may name the old backing file or the new one, and its length may not be the manifest's; what
 * is read through either is the same.
 */
import { z } from 'zod';
import { type DiskName, diskName, type PointId, pointId } from '../base/ids.ts';
import { diskFileName } from './layout.ts';
import { FORMAT, named, parseVaultJson } from './manifest.ts';

export interface DiskFile {
  point: PointId;
  file: string;
}

export interface Move {
  point: PointId;
  disk: DiskName;
  file: string;
  /** The file of the point that goes, on which this one stands before. */
  from: DiskFile;
  /** What it stands on afterwards; null: it is a full then. */
  backing: DiskFile | null;
  /**
   * - `pull`: it takes in what it needs of the file that goes.
   * - `rewrite`: it is made anew over its new backing file.
   * - `commit`: its clusters are written into the file that goes, which then takes its place.
   */
  how: 'pull' | 'rewrite' | 'commit';
}

export interface Change {
  format: typeof FORMAT;
  /** In words: `delete of 20261120T…`. */
  what: string;
  stage: 'gathering' | 'switching';
  moves: Move[];
  /** The parents of the points that have moved disks, afterwards. */
  parents: { point: PointId; parent: PointId | null }[];
  /** Points that go, descendants first. From the beginning of the change on they are no longer listed. */
  removes: PointId[];
}

const diskFile = z.looseObject({ point: named(pointId), file: named(diskFileName) });

const schema: z.ZodType<Change> = z.looseObject({
  format: z.literal(FORMAT),
  what: z.string(),
  stage: z.enum(['gathering', 'switching']),
  moves: z.array(
    z.looseObject({
      point: named(pointId),
      disk: named(diskName),
      file: named(diskFileName),
      from: diskFile,
      backing: diskFile.nullable(),
      how: z.enum(['pull', 'rewrite', 'commit']),
    }),
  ),
  parents: z.array(z.looseObject({ point: named(pointId), parent: named(pointId).nullable() })),
  removes: z.array(named(pointId)),
});

/** @throws manifest-invalid, vault-format */
export function parseChange(text: string, where: string): Change {
  return parseVaultJson(schema, text, where);
}
