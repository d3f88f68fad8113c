/**
 * One run, from its start to the published point, or back to where it began. How it starts differs: a new one prepares
 * and takes its moment (begin.ts), one whose engine died is joined where it is (rejoin.ts). From the running jobs on
 * there is one path. Its order is what keeps the promises: the journal before anything is made; the VM clean before
 * publishing; the rename of the point is the commit; the old bitmaps go only after it.
 */
import { bounded, cancelledBy } from '../base/deadline.ts';
import { codeOf, messageOf, QmpvaultError } from '../base/errors.ts';
import { isBitmapOf } from '../base/ids.ts';
import type { Guard } from '../image/guard.ts';
import type { Writer } from '../image/writer.ts';
import type { Lease } from '../vault/lease.ts';
import type { Manifest, ManifestDisk } from '../vault/manifest.ts';
import type { Staging } from '../vault/staging.ts';
import type { Vault } from '../vault/vault.ts';
import type { VmFolder } from '../vault/vm-folder.ts';
import { removeBitmaps } from '../vm/bitmaps.ts';
import { type CopyJobs, hasBrokenSnapshot } from '../vm/copy-jobs.ts';
import type { GuestAgent } from '../vm/guest-agent.ts';
import { watchMainLoop } from '../vm/main-loop.ts';
import type { Vm } from '../vm/vm.ts';
import { copyDisks, progressOf } from './copy.ts';
import type { BackupPhase, BackupRequest, Engine, RunControl } from './engine.ts';
import { type Copied, describeFiles, publish, type Unpublished } from './publish.ts';
import { placeIn, release, takeOut } from './release.ts';
import { type Captured, noteProgress, type Progress, type RunFacts, writeRunRecord } from './run-journal.ts';
import { refuseFullScratch } from './scratch-space.ts';
import type { CopiedDisk } from './site.ts';
import { all } from './together.ts';

export interface RunContext {
  readonly engine: Engine;
  readonly vault: Vault;
  readonly folder: VmFolder;
  readonly lease: Lease;
  readonly vm: Vm;
  readonly request: BackupRequest;
  readonly control: RunControl;
  /** When the caller began to wait, by performance.now(). */
  readonly beganMs: number;
}

/** What a run has at work. Whoever starts it puts things in as they come to be; its end gives them back. */
export interface Held {
  staging: Staging | null;
  writer: Writer | null;
  agent: GuestAgent | null;
  guard: Guard | null;
}

/**
 * Prepares a run, or joins one, up to the point where its moment is taken and journaled.
 * @returns the jobs that are copying; null when all is copied
 */
export type StartRun = () => Promise<CopyJobs | null>;

/** What a hung NAS may cost the clean-up of a failed run; what is left there the next run removes. */
const NAS_CLEANUP_MS = 5_000;
/** The writer disconnects at once, but when it hangs; and until it has, a reset of the guest would wait for it. */
const STOP_SERVING_MS = 2_000;

export class Run {
  readonly context: RunContext;
  readonly warnings: string[] = [];
  readonly held: Held = { staging: null, writer: null, agent: null, guard: null };
  readonly facts: RunFacts;
  readonly #patienceMs: number;
  #progress: Progress;

  constructor(context: RunContext, facts: RunFacts, progress: Progress = {}) {
    this.context = context;
    this.facts = facts;
    this.#progress = progress;
    this.#patienceMs = context.vm.client.patienceMs;
  }

  get progress(): Progress {
    return this.#progress;
  }

  /** Puts it into the journal, as this process's. */
  own(): Promise<void> {
    return writeRunRecord(this.context.engine.stateDir, this.facts);
  }

  async note(news: Progress): Promise<void> {
    this.#progress = { ...this.#progress, ...news };
    await noteProgress(this.context.engine.stateDir, this.facts.run, news);
  }

  /** @returns the published point @throws what ended the run; nothing of it is left then, but what `warnings` name */
  async make(start: StartRun): Promise<Manifest> {
    let published = false;
    let out = false;
    try {
      const jobs = await start();
      const captured = this.#captured();
      this.warnings.push(...captured.moment.warnings);
      const copied = jobs === null ? this.#copied() : await this.#copy(captured, jobs);
      const made = this.#made(captured, copied);
      let described: ManifestDisk[];
      if (this.#progress.synced) {
        described = await describeFiles(this.context, made);
      } else {
        await this.#stopWriting(copied);
        this.tell('publishing', captured.disks);
        const leaving = this.#leaveVm(captured.disks).then(() => {
          out = true;
        });
        [, described] = await all([leaving, this.#settle(made)]);
        await this.note({ synced: true });
        await this.context.engine.reachStep('synced');
      }
      const point = await publish(this.context, made, described);
      published = true;
      await this.#removeOldBitmaps(point);
      return point;
    } catch (error) {
      throw this.#meaningOf(error);
    } finally {
      await this.#end(published, out);
    }
  }

  tell(phase: BackupPhase, disks: readonly CopiedDisk[]): void {
    this.context.control.onProgress?.(progressOf(phase, disks, []));
  }

  async #copy({ moment, disks, snapshot }: Captured, jobs: CopyJobs): Promise<Copied> {
    const { control, request, engine, vm } = this.context;
    const { folders } = this.facts;
    const refuseFull = () => refuseFullScratch(folders.scratch, engine.scratchLimitBytes);
    await engine.reachStep('copying');
    const bytes = await copyDisks({
      jobs,
      disks,
      tools: engine.tools,
      staging: this.#staged(),
      request,
      control,
      watchers: [
        (signal) =>
          watchMainLoop(vm.client, signal, async () => {
            if (snapshot) await refuseFull();
          }),
      ],
    }).catch(async (error: unknown) => {
      if (hasBrokenSnapshot(error)) await refuseFull();
      throw error;
    });
    await engine.reachStep('copied');
    return { bytes, copyMs: sinceMs(moment.at) };
  }

  /** The jobs tell how they ended only until they are dismissed. */
  async #stopWriting({ bytes, copyMs }: Copied): Promise<void> {
    await all([
      this.note({ copied: { bytes: [...bytes], copyMs } }),
      this.held.writer?.stopServing({ signal: this.context.control.signal, timeoutMs: STOP_SERVING_MS }),
    ]);
  }

  /** Beside `#settle`: from when the writer has disconnected on, the VM and the files have nothing to do with each other. */
  async #leaveVm(disks: readonly CopiedDisk[]): Promise<void> {
    const { vm } = this.context;
    vm.client.patienceMs = this.#patienceMs;
    this.warnings.push(...(await takeOut(vm, this.facts, { orderly: true })));
    await this.#refuseOvertaken(disks);
  }

  /**
   * The files: closed, synced, checked. An fsync that failed is never repeated, and nobody finishes a run that died
   * during one: it might have failed. What keeps them from it is that the writer has been told to end by then.
   */
  async #settle(made: Unpublished): Promise<ManifestDisk[]> {
    const { writer } = this.held;
    const { signal } = this.context.control;
    await writer?.quit({ signal });
    await this.context.engine.reachStep('syncing');
    const [, , described] = await all([
      writer?.ended({ signal }),
      made.staging.sync(),
      describeFiles(this.context, made),
    ]);
    return described;
  }

  /** What happened to the VM under the run would make the point wrong, or its bitmaps useless. */
  async #refuseOvertaken(disks: readonly CopiedDisk[]): Promise<void> {
    const { vm } = this.context;
    const [, found] = await all([vm.refuseWhileMoving(), vm.disks()]);
    const now = new Map(found.disks.map((disk) => [disk.name, disk]));
    for (const { disk } of disks) {
      const same = now.get(disk.name);
      if (same?.sizeBytes === disk.sizeBytes && same.node === disk.node) continue;
      const what =
        same === undefined
          ? 'was unplugged'
          : same.node === disk.node
            ? 'was resized'
            : 'has another active image';
      throw new QmpvaultError('run-overtaken', `disk ${disk.name} ${what} during the run: back up again`, {
        details: { disk: disk.name },
      });
    }
  }

  #made({ facts, moment, disks }: Captured, copied: Copied): Unpublished {
    return { run: this.facts.run, staging: this.#staged(), facts, moment, disks, copied };
  }

  /** From now on only the new bitmaps tell changes: those of points, also of deleted ones, and of dead runs are garbage. */
  async #removeOldBitmaps(point: Manifest): Promise<void> {
    const { vm, engine, vault } = this.context;
    await engine.reachStep('published');
    const { bitmaps } = this.facts;
    try {
      await removeBitmaps(vm.client, (name) => isBitmapOf(vault.id, name) && !bitmaps.includes(name));
    } catch (error) {
      this.warnings.push(`${point.id} is published; an old bitmap could not be removed: ${messageOf(error)}`);
    }
  }

  /** @param published as far as is known; an error after the rename may have been the last one */
  async #end(published: boolean, out: boolean): Promise<void> {
    const { engine, vm } = this.context;
    const { staging, agent, guard } = this.held;
    vm.client.patienceMs = this.#patienceMs;
    const kept = published || (staging?.isPublished ?? false);
    // A guard that still has to thaw reads the same socket: what we took of the agent's replies it would wait for in vain.
    await this.#attempt('closing the guest agent', async () => agent?.close());
    await this.#attempt('ending the guard', async () => guard?.end());
    const reachable = vm.client.isOpen ? placeIn(vm) : null;
    this.warnings.push(...(await release(engine, reachable, this.facts, { published: kept, out })));
    if (kept) return;
    const discard = staging?.discard() ?? Promise.resolve();
    await this.#attempt('removing the staging folder', () =>
      bounded(discard, { timeoutMs: NAS_CLEANUP_MS, what: 'the NAS' }),
    );
  }

  #staged(): Staging {
    return this.held.staging ?? missing('nothing was staged');
  }

  #captured(): Captured {
    return this.#progress.captured ?? missing('no moment was taken');
  }

  #copied(): Copied {
    const { bytes, copyMs } = this.#progress.copied ?? missing('nothing was copied');
    return { bytes: new Map(bytes), copyMs };
  }

  async #attempt(what: string, step: () => Promise<unknown>): Promise<void> {
    try {
      await step();
    } catch (error) {
      this.warnings.push(`${what} failed: ${messageOf(error)}`);
    }
  }

  /** The same failure looks different where it hit us; the caller is told what it means. */
  #meaningOf(error: unknown): unknown {
    const { control, vm } = this.context;
    if (control.signal?.aborted) return cancelledBy(control.signal);
    const lost =
      !vm.client.isOpen || codeOf(error) === 'qmp-closed' || codeOf(error) === 'qmp-outcome-unknown';
    if (codeOf(error) === 'qmp-timeout') {
      return new QmpvaultError('run-stalled', `${messageOf(error)}: does the NAS hang?`, { cause: error });
    }
    if (!lost) return error;
    return new QmpvaultError(
      'vm-lost',
      `the connection to ${vm.socket} ended during the run: did QEMU die?`,
      {
        details: { socket: vm.socket },
        cause: error,
      },
    );
  }
}

/** By the wall clock: it may have been another process that began. */
export function sinceMs(began: Date): number {
  return Math.max(0, Date.now() - began.getTime());
}

function missing(what: string): never {
  throw new QmpvaultError('internal', what);
}
