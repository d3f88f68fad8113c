/** Shortest sequences of what the model once found wrong; the defects are told in docs/reliability.md. */
import t from 'tap';
import { MiB } from '../../src/base/units.ts';
import type { DiskSpec } from '../../vm-fixtures/guestless.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import type { Operation } from './operations.ts';
import { play } from './play.ts';

const PLAIN: readonly DiskSpec[] = [
  { name: 'vda', sizeBytes: 4 * MiB },
  { name: 'vdb', sizeBytes: 4 * MiB, attach: 'virtio-scsi' },
];
const SPARE: DiskSpec = { name: 'hot', sizeBytes: 2 * MiB };
const FIRST = { vault: 0, point: 0 };
const WISHES = { vault: 0, fullEvery: 20, during: [] };

interface Regression {
  readonly seed: number;
  readonly what: string;
  readonly disks?: readonly DiskSpec[];
  /** After a first backup; at the end comes another one. */
  readonly operations: readonly Operation[];
}

const REGRESSIONS: readonly Regression[] = [
  {
    seed: 1,
    what: 'a vault that is full before the first byte is said to be full',
    operations: [
      { kind: 'fillVaultInBackup', wishes: WISHES, full: false, freeKiB: 200, step: 'journal', before: [] },
    ],
  },
  {
    seed: 2,
    what: 'bitmaps below an overlay cannot be removed, and those of the other disks are all the same',
    operations: [
      { kind: 'snapshot', disk: 1 },
      { kind: 'backup', ...WISHES },
      { kind: 'commit', disk: 0 },
    ],
  },
  {
    seed: 4,
    what: 'the bitmap of a deleted point goes with the next backup',
    operations: [
      { kind: 'deleteWithDescendants', ...FIRST },
      { kind: 'backup', ...WISHES },
    ],
  },
  {
    seed: 101,
    what: 'a vault that fills up when the point is published has that point, and the backup says so',
    operations: [
      { kind: 'fillVaultInBackup', wishes: WISHES, full: true, freeKiB: 0, step: 'published', before: [] },
    ],
  },
  {
    seed: 1004,
    what: 'a vault that goes away while the files of a point are described is away, and nothing else',
    operations: [{ kind: 'moveVaultInBackup', wishes: WISHES, step: 'synced', before: [] }],
  },
  {
    seed: 1016,
    what: 'a point that is published is one, wherever the vault goes before its digest',
    operations: [
      { kind: 'moveVaultInBackup', wishes: { ...WISHES, vault: 1 }, step: 'published', before: [] },
    ],
  },
  {
    seed: 1037,
    what: 'zeroes that a commit leaves out since they are read from below are not lost',
    operations: [
      { kind: 'backup', ...WISHES },
      { kind: 'backup', ...WISHES },
      { kind: 'delete', vault: 0, point: 1 },
    ],
  },
  {
    seed: 40014,
    what: 'what a qcow2 shows again when it grows after it was made smaller is in the next point',
    operations: [
      { kind: 'write', writes: [{ disk: 0, pattern: 214, place: 49152, sectors: 2048 }] },
      { kind: 'shrink', disk: 0, sectors: 1001 },
      { kind: 'backup', ...WISHES },
      { kind: 'grow', disk: 0, sectors: 800, running: true },
      { kind: 'backup', ...WISHES },
    ],
  },
];

for (const qemu of qemuVersions(['7.2', '11.1'])) {
  for (const { seed, what, disks = PLAIN, operations } of REGRESSIONS) {
    t.test(`QEMU ${qemu}: ${what} (seed ${seed})`, async (t) => {
      await play({ layout: { disks, spare: SPARE }, operations }, { qemu });
      t.pass();
    });
  }
}
