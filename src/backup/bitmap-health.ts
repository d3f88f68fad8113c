/** Judging what bitmaps a disk carries: which one, if any, tells the changes since a published point. */
import type { BitmapName } from '../base/ids.ts';
import type { Manifest, ManifestDisk } from '../vault/manifest.ts';
import { GRANULARITY_BYTES, type IdentityQuestion } from '../vm/bitmaps.ts';
import type { Bitmap, NodeName } from '../vm/block-graph.ts';
import type { Disk } from '../vm/disks.ts';
import type { BitmapHealth } from './plan.ts';

/** A bitmap of a disk that stands in a published manifest for that disk. */
export interface Candidate {
  readonly disk: Disk;
  readonly name: BitmapName;
  readonly bitmap: Bitmap;
  readonly point: Manifest;
  readonly pattern: readonly number[];
}

/** The bitmaps on a disk that published points name for it, newest point first. */
export function candidates(disk: Disk, points: readonly Manifest[]): Candidate[] {
  return points.toReversed().flatMap((point) => {
    const entry: ManifestDisk | undefined = point.disks.find(({ name }) => name === disk.name);
    const made = entry?.bitmap ?? null;
    const bitmap = made === null ? undefined : disk.bitmaps.find(({ name }) => name === made.name);
    return made === null || bitmap === undefined
      ? []
      : [{ disk, name: made.name, bitmap, point, pattern: made.pattern }];
  });
}

/** What keeps a bitmap from being trusted, as far as its own flags tell; null: only its identity is left to prove. */
export function flaw({ bitmap }: Candidate): string | null {
  if (bitmap.inconsistent) return 'its bitmap is inconsistent: QEMU died before it could store it';
  if (bitmap.busy) return 'its bitmap is in use by a job of somebody else';
  if (!bitmap.recording) return 'its bitmap was disabled, so writes went by it';
  if (bitmap.granularityBytes !== GRANULARITY_BYTES)
    return `its bitmap has a granularity of ${bitmap.granularityBytes} bytes, not ours`;
  return null;
}

export function identityQuestion(candidate: Candidate, patternNode: NodeName): IdentityQuestion {
  return {
    bitmap: { node: candidate.disk.node, name: candidate.bitmap.name },
    pattern: { node: patternNode, sizeBytes: candidate.disk.sizeBytes, clusters: candidate.pattern },
  };
}

/** @param proved whether the candidate's identity was proved; not asked for one with a flaw */
export function healthOf(
  candidate: Candidate | undefined,
  proved: boolean | undefined,
  parent: Manifest | null,
): BitmapHealth {
  if (candidate === undefined) {
    return {
      state: 'lost',
      why: parent === null ? 'there is no point yet' : 'it has no bitmap of a point of this vault',
    };
  }
  const why: string | null =
    flaw(candidate) ??
    (proved
      ? null
      : 'its bitmap is not the one that was made with the point: it was removed, added again or cleared');
  if (why !== null) return { state: 'lost', why };
  return { state: 'tracked', name: candidate.name, point: candidate.point };
}
