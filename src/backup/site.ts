/** What one run works with, from the end of its planning to its end. */
import type { RunId } from '../base/ids.ts';
import type { NewBitmap } from '../vm/bitmaps.ts';
import type { Disk } from '../vm/disks.ts';
import type { GuestAgent } from '../vm/guest-agent.ts';
import type { GuestGuard, Moment } from '../vm/moment.ts';
import type { Vm } from '../vm/vm.ts';
import type { BackupRequest, Engine } from './engine.ts';
import type { DiskPlan } from './plan.ts';
import type { RunFolders } from './run-folders.ts';

/** A disk from its moment on: all that copying and publishing need of it. The journal keeps it too. */
export interface CopiedDisk {
  readonly index: number;
  readonly disk: Pick<Disk, 'name' | 'device' | 'node' | 'format' | 'image' | 'sizeBytes'>;
  readonly plan: Pick<DiskPlan, 'how'>;
  /** What it stands on, as its header names it; null: on nothing. */
  readonly backingLink: string | null;
  /** Null: an image that keeps none tracks nothing while its VM is stopped. */
  readonly bitmap: Pick<NewBitmap, 'name' | 'pattern'> | null;
  /** Name of its file in the point. */
  readonly file: string;
}

export interface RunDisk extends CopiedDisk {
  readonly disk: Disk;
  readonly plan: DiskPlan;
  readonly bitmap: NewBitmap;
  /** Where something will be copied whatever the guest wrote: the identity pattern of the bitmap that tells the changes. */
  readonly copiedAnyway: readonly number[];
}

export interface RunSite {
  readonly engine: Engine;
  readonly request: BackupRequest;
  readonly run: RunId;
  readonly vm: Vm;
  readonly disks: readonly RunDisk[];
  /** Nodes can be put over the disks only while the guest stands still. */
  readonly standstill: boolean;
  readonly folders: RunFolders;
  readonly guard: GuestGuard | null;
  readonly agent: GuestAgent | null;
  readonly bandwidth: () => number | undefined;
  readonly signal: AbortSignal | undefined;
  /** Told once, before anything that may wait for the NAS where that can be: durable when it returns. */
  readonly taken: (moment: Moment) => Promise<void>;
}
