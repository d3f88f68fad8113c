/**
 * One run: from the plan to the published point, or back to where it began. The order of the steps is what keeps
 * the promises: the journal before anything is made; the VM clean before publishing; the rename of the point is the
 * commit; the old bitmaps go only after it.
 */
import { bounded, cancelledBy } from '../base/deadline.ts';
import { codeOf, messageOf, QmpvaultError } from '../base/errors.ts';
import { isBitmapOf, newPointId, newRunId } from '../base/ids.ts';
import { Guard } from '../image/guard.ts';
import { Writer } from '../image/writer.ts';
import type { Lease } from '../vault/lease.ts';
import type { Manifest } from '../vault/manifest.ts';
import type { Staging } from '../vault/staging.ts';
import type { Vault } from '../vault/vault.ts';
import type { VmFolder } from '../vault/vm-folder.ts';
import { removeBitmaps } from '../vm/bitmaps.ts';
import { connectAgent, type GuestAgent } from '../vm/guest-agent.ts';
import { watchMainLoop } from '../vm/main-loop.ts';
import type { Vm } from '../vm/vm.ts';
import { capture } from './capture.ts';
import { copyDisks, progressOf } from './copy.ts';
import type { BackupPhase, BackupRequest, Engine, RunControl } from './engine.ts';
import { type Copied, publish } from './publish.ts';
import { placeIn, release, takeOut } from './release.ts';
import { createFile, runDisks } from './run-disks.ts';
import { makeRunFolders, nbdSocket, runFolders } from './run-folders.ts';
import { type RunFacts, writeRunRecord } from './run-journal.ts';
import { refuseFullScratch, refuseWithoutScratch } from './scratch-space.ts';
import type { RunDisk, RunSite } from './site.ts';
import type { Survey } from './survey.ts';

export interface RunContext {
  readonly engine: Engine;
  readonly vault: Vault;
  readonly folder: VmFolder;
  readonly lease: Lease;
  readonly vm: Vm;
  readonly request: BackupRequest;
  readonly control: RunControl;
  readonly survey: Survey;
  /** When the caller began to wait, by performance.now(). */
  readonly beganMs: number;
}

/** What a hung NAS may cost the clean-up of a failed run; what is left there the next run removes. */
const NAS_CLEANUP_MS = 5_000;
/** The writer disconnects at once, but when it hangs; and until it has, a reset of the guest would wait for it. */
const STOP_SERVING_MS = 2_000;

export class Run {
  readonly #context: RunContext;
  readonly #run = newRunId();
  readonly #point;
  readonly #disks: readonly RunDisk[];
  readonly #record: RunFacts;
  readonly #patienceMs: number;
  readonly warnings: string[] = [];
  #staging: Staging | null = null;
  #writer: Writer | null = null;
  #agent: GuestAgent | null = null;
  #guard: Guard | null = null;

  constructor(context: RunContext) {
    const { engine, vault, folder, vm, request, survey } = context;
    this.#context = context;
    this.#patienceMs = vm.client.patienceMs;
    this.#point = request.point ?? newPointId(new Date());
    this.#disks = runDisks(vault, survey, request.files);
    this.#record = {
      format: 1,
      run: this.#run,
      vm: { name: folder.name, uuid: vm.uuid, socket: vm.socket },
      vault: { path: vault.path, id: vault.id },
      point: this.#point,
      folders: runFolders(engine, this.#run),
      bitmaps: this.#disks.map(({ bitmap }) => bitmap.name),
      images: [],
    };
  }

  /** @returns the published point @throws what ended the run; nothing of it is left then, but what `warnings` name */
  async make(): Promise<Manifest> {
    const { engine, vm } = this.#context;
    let published = false;
    let out = false;
    await engine.reachStep('journal');
    await writeRunRecord(engine.stateDir, this.#record);
    try {
      const site = await this.#prepare();
      const copied = await this.#copy(site);
      await engine.reachStep('copied');
      const { signal } = this.#context.control;
      await this.#writer?.stopServing({ signal, timeoutMs: STOP_SERVING_MS });
      vm.client.patienceMs = this.#patienceMs;
      this.warnings.push(...(await takeOut(vm, this.#record, { orderly: true })));
      await this.#refuseOvertaken();
      out = true;
      const point = await this.#publish(copied);
      published = true;
      await this.#removeOldBitmaps(point);
      return point;
    } catch (error) {
      throw this.#meaningOf(error);
    } finally {
      await this.#end(published, out);
    }
  }

  /** Everything that can be made ready before the VM is touched; the parts do not wait for each other. */
  async #prepare(): Promise<RunSite> {
    const { engine, vm, request, control, survey } = this.#context;
    const { signal } = control;
    const folders = this.#record.folders;
    this.#tell('preparing');
    const [running, process] = await Promise.all([vm.status(), vm.process()]);
    await makeRunFolders(folders, process);
    const disks = survey.disks.map(({ disk }) => disk);
    const snapshot = survey.noSnapshot === null;
    if (snapshot) await refuseWithoutScratch(folders.scratch, disks);
    else this.warnings.push(readWithout(survey.noSnapshot));
    const standstill = snapshot && (await vm.mustStandStill(disks));
    await all([
      this.#createFiles(),
      Writer.start({ tools: engine.tools, dir: folders.writer, signal }).then((writer) => {
        this.#writer = writer;
      }),
      this.#startGuard(running === 'running', snapshot && (standstill || disks.length > 1)),
    ]);
    await this.#serve();
    return {
      engine,
      request,
      run: this.#run,
      vm,
      disks: this.#disks,
      standstill,
      folders,
      guard: this.#guard,
      agent: this.#agent,
      signal,
    };
  }

  async #createFiles(): Promise<void> {
    const { engine, folder, lease, control } = this.#context;
    await engine.reachStep('staging');
    const staging = await folder.createStaging(this.#point, lease, this.#run);
    this.#staging = staging;
    const options = { tools: engine.tools, staging, folders: this.#record.folders, signal: control.signal };
    await all(this.#disks.map((disk) => createFile(disk, options)));
  }

  /** The writer opens the files that the VM's jobs will write. */
  async #serve(): Promise<void> {
    const { signal } = this.#context.control;
    for (const { disk, file, plan } of this.#disks) {
      const path = this.#staged().diskPath(file);
      if (plan.how !== 'resync') await this.#writer?.addTarget({ name: disk.name, path }, { signal });
    }
    await this.#writer?.serve({ socketPath: nbdSocket(this.#record.folders), signal });
  }

  /** A VM that does not run now may be resumed by its operator before the moment: the guard is there in any case. */
  async #startGuard(running: boolean, pauses: boolean): Promise<void> {
    const { vm, request, control } = this.#context;
    if (running && request.agent !== undefined && request.quiesce !== 'off') {
      try {
        this.#agent = await connectAgent(request.agent, { signal: control.signal });
      } catch (cause) {
        if (request.quiesce === 'required') throw new QmpvaultError('vm-agent', messageOf(cause), { cause });
        this.warnings.push(`${messageOf(cause)}; the restore point is crash-consistent`);
      }
    }
    if (!pauses && this.#agent === null) return;
    const agent = this.#agent?.socket;
    this.#guard = await Guard.start({ qmp: vm.client.socket, ...(agent && { agent }) });
  }

  async #copy(site: RunSite): Promise<Copied> {
    const { control, request, survey, engine } = this.#context;
    const snapshot = survey.noSnapshot === null;
    const { moment, jobs } = await capture(site, snapshot);
    await engine.reachStep('copying');
    this.warnings.push(...moment.warnings);
    if (request.bandwidth !== undefined && this.#disks.some(({ plan }) => plan.how === 'resync')) {
      this.warnings.push(
        'the bandwidth limit holds for copying, not for comparing disks that lost their bitmap',
      );
    }
    const began = performance.now();
    const bytes = await copyDisks({
      jobs,
      disks: this.#disks,
      tools: engine.tools,
      staging: this.#staged(),
      request,
      control,
      watchers: [
        (signal) =>
          watchMainLoop(site.vm.client, signal, async () => {
            if (snapshot) await refuseFullScratch(site.folders.scratch, engine.scratchLimitBytes);
          }),
      ],
    });
    return { moment, bytes, copyMs: performance.now() - began };
  }

  /** What happened to the VM under the run would make the point wrong, or its bitmaps useless. */
  async #refuseOvertaken(): Promise<void> {
    const { vm } = this.#context;
    await vm.refuseWhileMoving();
    const now = new Map((await vm.disks()).disks.map((disk) => [disk.name, disk]));
    for (const { disk } of this.#disks) {
      const found = now.get(disk.name);
      if (found?.sizeBytes === disk.sizeBytes && found.node === disk.node) continue;
      const what =
        found === undefined
          ? 'was unplugged'
          : found.node === disk.node
            ? 'was resized'
            : 'has another active image';
      throw new QmpvaultError('run-overtaken', `disk ${disk.name} ${what} during the run: back up again`, {
        details: { disk: disk.name },
      });
    }
  }

  async #publish(copied: Copied): Promise<Manifest> {
    this.#tell('publishing');
    const { control } = this.#context;
    await this.#writer?.finish({ signal: control.signal });
    return publish(this.#context, { run: this.#run, staging: this.#staged(), disks: this.#disks, copied });
  }

  /** From now on only the new bitmaps tell changes: those of points, also of deleted ones, and of dead runs are garbage. */
  async #removeOldBitmaps(point: Manifest): Promise<void> {
    const { vm, engine, vault } = this.#context;
    await engine.reachStep('published');
    const { bitmaps } = this.#record;
    try {
      await removeBitmaps(vm.client, (name) => isBitmapOf(vault.id, name) && !bitmaps.includes(name));
    } catch (error) {
      this.warnings.push(`${point.id} is published; an old bitmap could not be removed: ${messageOf(error)}`);
    }
  }

  /** @param published as far as is known; an error after the rename may have been the last one */
  async #end(published: boolean, out: boolean): Promise<void> {
    const { engine, vm } = this.#context;
    vm.client.patienceMs = this.#patienceMs;
    const kept = published || (this.#staging?.isPublished ?? false);
    await this.#attempt('ending the guard', async () => this.#guard?.end());
    await this.#attempt('closing the guest agent', async () => this.#agent?.close());
    const reachable = vm.client.isOpen ? placeIn(vm) : null;
    this.warnings.push(...(await release(engine, reachable, this.#record, { published: kept, out })));
    if (kept) return;
    const discard = this.#staging?.discard() ?? Promise.resolve();
    await this.#attempt('removing the staging folder', () =>
      bounded(discard, { timeoutMs: NAS_CLEANUP_MS, what: 'the NAS' }),
    );
  }

  #staged(): Staging {
    if (this.#staging !== null) return this.#staging;
    throw new QmpvaultError('internal', 'nothing was staged');
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
    const { control, vm } = this.#context;
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

  #tell(phase: BackupPhase): void {
    this.#context.control.onProgress?.(progressOf(phase, this.#disks, []));
  }
}

function readWithout(why: string | null): string {
  return `the disks are read without a snapshot (${why}): meanwhile a slow NAS slows the guest's writes down, and one that fails can fail them`;
}

/** All of them end, then the first failure is thrown: none is left running behind the clean-up's back. */
async function all(parts: readonly Promise<unknown>[]): Promise<void> {
  for (const result of await Promise.allSettled(parts)) {
    if (result.status === 'rejected') throw result.reason;
  }
}
