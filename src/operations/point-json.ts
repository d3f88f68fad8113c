/**
 * A restore point as scripts get it. A fixed shape, whatever else the manifest comes to hold: another one needs another
 * version of qmpvault, by which list-memo.ts knows it.
 */
import type { Manifest } from '../vault/manifest.ts';

export type PointJson = ReturnType<typeof pointJson>;
export type PointDetailsJson = ReturnType<typeof pointDetailsJson>;

export function pointJson({ disks, timings, ...point }: Manifest) {
  return {
    id: point.id,
    vm: point.vm.name,
    kind: point.kind,
    how: point.how,
    why: point.why,
    parent: point.parent,
    createdAt: point.createdAt,
    consistency: point.consistency,
    sealed: point.sealed,
    protected: point.protected ?? false,
    disks: disks.map(({ name, file, virtualSizeBytes, copiedBytes, storedBytes, sha256 }) => ({
      name,
      file,
      virtualSizeBytes,
      copiedBytes,
      storedBytes,
      sha256,
    })),
    timings: {
      freezeMs: timings.freezeMs,
      pauseMs: timings.pauseMs,
      copyMs: timings.copyMs,
      totalMs: timings.totalMs,
    },
  };
}

/** With what only one point at a time is asked for. */
export function pointDetailsJson(manifest: Manifest) {
  const point = pointJson(manifest);
  return {
    ...point,
    uuid: manifest.vm.uuid,
    disks: point.disks.map((disk, i) => ({ ...disk, kind: manifest.disks[i]?.kind ?? manifest.kind })),
    left: manifest.left,
    versions: manifest.versions,
  };
}
