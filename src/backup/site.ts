/** What one run works with, from the end of its planning to its end. */
import type { RunId } from '../base/ids.ts';
import type { NewBitmap } from '../vm/bitmaps.ts';
import type { CopyJobs } from '../vm/copy-jobs.ts';
import type { Disk } from '../vm/disks.ts';
import type { GuestAgent } from '../vm/guest-agent.ts';
import type { GuestGuard, Moment } from '../vm/moment.ts';
import type { Vm } from '../vm/vm.ts';
import type { BackupRequest, Engine } from './engine.ts';
import type { DiskPlan } from './plan.ts';
import type { RunFolders } from './run-folders.ts';

export interface RunDisk {
  readonly index: number;
  readonly disk: Disk;
  readonly plan: DiskPlan;
  /** What it stands on, as its header names it; null: on nothing. */
  readonly backingLink: string | null;
  readonly bitmap: NewBitmap;
  /** Name of its file in the point. */
  readonly file: string;
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
  readonly signal: AbortSignal | undefined;
}

/** A moment taken, and the jobs that are reading it; the disks to compare can be read over NBD. */
export interface Captured {
  readonly moment: Moment;
  readonly jobs: CopyJobs;
}
