/** What a backup is asked for and what it tells; and where an engine keeps its things on this host. */

import type { DiskName, PointId, VmName } from '../base/ids.ts';
import type { Log } from '../base/log.ts';
import type { ReachStep } from '../base/steps.ts';
import type { QemuTools } from '../image/tools.ts';
import type { Manifest } from '../vault/manifest.ts';
import type { DiskNaming } from '../vm/disks.ts';
import type { Quiesce } from '../vm/moment.ts';

export interface Engine {
  /** Journals of runs and what is known of vaults. Must outlive this process, and the host's reboot. */
  readonly stateDir: string;
  /** Sockets; a short path, since a unix socket's has at most 107 bytes. */
  readonly runtimeDir: string;
  /** The guest's old data while a run reads. On a filesystem of its own it can never fill up the VM's. */
  readonly scratchDir: string;
  /** For all runs of this host together; without it only the filesystem's own end counts. */
  readonly scratchLimitBytes?: number | undefined;
  readonly tools: QemuTools;
  readonly version: string;
  readonly log: Log;
  readonly reachStep: ReachStep;
}

export interface BackupRequest {
  readonly vm: VmName;
  /** The VM's QMP socket; without it the VM is taken for stopped. */
  readonly qmp?: string | undefined;
  /** By what its disks are called; default: the guest's devices. One VM's points need one way. */
  readonly naming?: DiskNaming | undefined;
  /** A stopped VM's disks, where the vault does not know their images, or not the right ones. */
  readonly images?: ReadonlyMap<DiskName, string> | undefined;
  /** `images` names all disks there are: others that the vault remembers are no longer the VM's. */
  readonly onlyImages?: boolean | undefined;
  /** The guest agent's socket. */
  readonly agent?: string | undefined;
  readonly quiesce: Quiesce;
  readonly full?: boolean | undefined;
  /** A chain that has this many points is not extended; 1 or less: every point is a full. */
  readonly fullEvery: number;
  readonly exclude?: readonly DiskName[] | undefined;
  /** Bytes per second, over all disks. */
  readonly bandwidth?: number | undefined;
  readonly point?: PointId | undefined;
  /**
   * The files of the disks in the point: the first one's, the second one's, …, the last pattern for all that follow.
   * `{disk}` stands for the disk's name. Default: `{disk}.qcow2`.
   */
  readonly files?: readonly string[] | undefined;
  /** What the new point is to stand on, where the caller decides that: on nothing else, else it is a full. */
  readonly parent?: NamedParent | undefined;
  /** What the caller calls the bitmaps that track from this point on. In the VM they have names of our own. */
  readonly bitmapAlias?: string | undefined;
  /** Texts to lie beside the images, by the names of their files. */
  readonly beside?: ReadonlyMap<string, string> | undefined;
  /** How long the guest agent may take to freeze. */
  readonly freezeMs?: number | undefined;
  /**
   * It was begun before, by an engine that died. If the point of that run can still be finished, or is published, it
   * is the result, and no second one is made. With `point`, only the one of this id.
   */
  readonly resume?: boolean | undefined;
  /** A run that moves no byte for so long is ended. */
  readonly noProgressMs?: number | undefined;
  /** How long a job of somebody else may keep a disk's bitmap from us. */
  readonly busyTimeoutMs?: number | undefined;
  /** Uses the sequence for QEMU without copy-before-write also where that is there. For tests. */
  readonly withoutSnapshot?: boolean | undefined;
}

export interface NamedParent {
  readonly point: PointId;
  /** The bitmap alias that its caller knows; if the point has another one, its bitmaps are not relied on. */
  readonly bitmapAlias?: string | undefined;
}

export type BackupPhase = 'preparing' | 'copying' | 'publishing' | 'digesting';

export interface BackupProgress {
  readonly phase: BackupPhase;
  readonly disks: readonly {
    readonly name: DiskName;
    readonly doneBytes: number;
    readonly totalBytes: number;
  }[];
}

export interface BackupResult {
  readonly point: Manifest;
  /** What a run whose engine had died was finished to, before this one began; the newest of them. */
  readonly adopted: Manifest | null;
  readonly warnings: readonly string[];
}

export interface RunControl {
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: BackupProgress) => void) | undefined;
  /** Bytes per second over all disks, where that changes during the run; in place of the request's. */
  readonly bandwidth?: (() => number | undefined) | undefined;
}
