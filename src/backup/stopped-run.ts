/**
 * One run over the images of a stopped VM: the plan, the copy jobs and the publishing of any run, in a storage daemon
 * that dies with us, since no guest waits for it. What keeps it right while the VM may start is in stopped-images.ts.
 */
import { bounded, cancelledBy } from '../base/deadline.ts';
import { messageOf, QmpvaultError } from '../base/errors.ts';
import { isBitmapOf, newPointId, newRunId, type PointId } from '../base/ids.ts';
import { Writer } from '../image/writer.ts';
import type { Manifest } from '../vault/manifest.ts';
import type { Staging } from '../vault/staging.ts';
import { nodeName } from '../vm/block-graph.ts';
import { CopyJobs, copyAction } from '../vm/copy-jobs.ts';
import type { Moment } from '../vm/moment.ts';
import { exportNode, startNbdServer } from '../vm/snapshot.ts';
import { unwind } from '../vm/unwind.ts';
import { copyDisks, progressOf } from './copy.ts';
import type { BackupPhase } from './engine.ts';
import type { StoppedVm } from './find-vm.ts';
import { imagePlace } from './image-place.ts';
import { type Copied, describeFiles, pointFacts, publish } from './publish.ts';
import { release } from './release.ts';
import type { RunContext } from './run.ts';
import { createFile, runDisks } from './run-disks.ts';
import { makeRunFolders, runFolders, vmNbdSocket } from './run-folders.ts';
import { type RunFacts, writeRunRecord } from './run-journal.ts';
import { sealDamaged } from './seal-damaged.ts';
import type { RunDisk } from './site.ts';
import { StoppedImages } from './stopped-images.ts';
import { surveyStopped } from './stopped-survey.ts';
import type { Survey } from './survey.ts';
import { all } from './together.ts';

export type StoppedContext = Omit<RunContext, 'vm'> & { readonly stopped: StoppedVm };

/** Nobody waits for the daemon's main loop, as a guest would for its QEMU's. */
const SILENCE_MS = 5_000;
const NAS_CLEANUP_MS = 5_000;

/** What a job has in flight that is not told otherwise. */
const QEMU_WORKERS = 64;

export class StoppedRun {
  readonly #context: StoppedContext;
  readonly #run = newRunId();
  readonly #point: PointId;
  readonly warnings: string[] = [];
  #record: RunFacts;
  #staging: Staging | null = null;
  #daemon: Writer | null = null;

  constructor(context: StoppedContext) {
    const { engine, vault, folder, stopped, request } = context;
    this.#context = context;
    this.#point = request.point ?? newPointId(new Date());
    this.#record = {
      format: 1,
      run: this.#run,
      began: new Date(),
      vm: { name: folder.name, uuid: stopped.uuid, socket: stopped.socket },
      vault: { path: vault.path, id: vault.id },
      point: this.#point,
      folders: runFolders(engine, this.#run),
      bitmaps: [],
      images: stopped.images.map(({ image }) => image),
    };
  }

  /** @returns the published point @throws what ended the run; nothing of it is left then, but what `warnings` name */
  async make(): Promise<Manifest> {
    const { engine, vault, request, control } = this.#context;
    let published = false;
    await engine.reachStep('journal');
    await writeRunRecord(engine.stateDir, this.#record);
    try {
      const { daemon, images } = await this.#start();
      const found = await this.#survey(daemon, images);
      const disks = runDisks(vault, found, request.files);
      const targets = await this.#prepare(daemon, images, disks);
      await this.#track(images, disks);
      const copied = await this.#copy(daemon, images, disks, targets);
      await engine.reachStep('copied');
      await images.refuseOvertaken(disks);
      await engine.reachStep('identity');
      await images.identify(disks);
      await daemon.finish({ signal: control.signal });
      const point = await this.#publish(daemon, disks, found, copied);
      published = true;
      await this.#removeOldBitmaps(point);
      return point;
    } catch (error) {
      throw control.signal?.aborted ? cancelledBy(control.signal) : error;
    } finally {
      await this.#end(published);
    }
  }

  async #start(): Promise<{ daemon: Writer; images: StoppedImages }> {
    const { engine, stopped, control } = this.#context;
    const { folders } = this.#record;
    this.#tell('preparing', []);
    await makeRunFolders(folders, { uid: process.geteuid?.() ?? 0, gid: process.getegid?.() ?? 0 });
    const { signal } = control;
    const daemon = await Writer.start({ tools: engine.tools, dir: folders.writer, diesWithUs: true, signal });
    this.#daemon = daemon;
    const images = new StoppedImages({
      tools: engine.tools,
      client: daemon.client,
      run: this.#run,
      images: stopped.images,
      scratch: folders.scratch,
    });
    return { daemon, images };
  }

  async #survey({ client }: Writer, images: StoppedImages): Promise<Survey> {
    const { engine, folder, lease, request } = this.#context;
    const found = await surveyStopped({ ...this.#context, client, images }, request);
    const { kind, how, why } = found.plan;
    engine.log.info({ vm: folder.name, how, why }, `next is a ${kind}, of a stopped VM`);
    this.warnings.push(...found.warnings, ...(await sealDamaged({ folder, lease }, found)));
    return found;
  }

  /** @returns the daemon's nodes of the files, by the disk's index; a disk that is compared has none */
  async #prepare(
    daemon: Writer,
    images: StoppedImages,
    disks: readonly RunDisk[],
  ): Promise<Map<number, string>> {
    const { engine, folder, lease, control } = this.#context;
    const { signal } = control;
    await engine.reachStep('staging');
    const staging = await folder.createStaging(this.#point, lease, this.#run);
    this.#staging = staging;
    const targets = new Map<number, string>();
    for (const disk of disks) {
      await createFile(disk, { staging, folders: this.#record.folders });
      if (disk.plan.how === 'resync') continue;
      const path = staging.diskPath(disk.file);
      targets.set(disk.index, await daemon.addTarget({ name: disk.disk.name, path }, { signal }));
    }
    await images.prepare(disks);
    return targets;
  }

  async #track(images: StoppedImages, disks: readonly RunDisk[]): Promise<void> {
    const { engine } = this.#context;
    this.#record = {
      ...this.#record,
      bitmaps: disks.flatMap(({ disk, bitmap }) => (disk.keepsBitmaps ? [bitmap.name] : [])),
    };
    await writeRunRecord(engine.stateDir, this.#record);
    await engine.reachStep('bitmaps');
    await images.track(disks);
  }

  async #copy(
    { client }: Writer,
    images: StoppedImages,
    disks: readonly RunDisk[],
    targets: ReadonlyMap<number, string>,
  ): Promise<{ moment: Moment; copied: Copied }> {
    const { engine, request, control } = this.#context;
    const run = this.#run;
    const socket = vmNbdSocket(this.#record.folders);
    const moment = {
      at: new Date(),
      freezeMs: null,
      pauseMs: null,
      consistency: 'crash',
      warnings: [],
    } as const;
    await engine.reachStep('jobs');
    await images.reopen(disks);
    if (targets.size < disks.length) await startNbdServer(client, socket);
    const actions: object[] = [];
    for (const { index, disk, plan } of disks) {
      const target = targets.get(index);
      if (target === undefined) {
        await exportNode(client, { run, index, node: disk.node, name: disk.name });
        continue;
      }
      const bitmap = plan.how === 'tracked' ? plan.bitmap : null;
      actions.push(copyAction(run, { index, source: disk.node, target: nodeName(target), bitmap }));
    }
    const indexes = [...targets.keys()];
    // No guest waits for this daemon.
    const silenceMs = request.noProgressMs ?? SILENCE_MS;
    const jobs = await CopyJobs.start(client, { run, indexes, actions, grouped: true, silenceMs });
    await engine.reachStep('copying');
    const began = performance.now();
    const bytes = await copyDisks({
      jobs,
      disks,
      tools: engine.tools,
      staging: this.#staged(),
      request,
      control,
      watchers: [],
      silenceMs,
      workers: QEMU_WORKERS,
    });
    const copyMs = performance.now() - began;
    const owns = (owner: string) => owner === run;
    await unwind({
      client,
      owns,
      canYank: false,
      killWriter: async () => false,
      nbdServer: socket,
      orderly: true,
    });
    return { moment, copied: { bytes, copyMs } };
  }

  async #publish(
    { client }: Writer,
    disks: readonly RunDisk[],
    found: Survey,
    { moment, copied }: { moment: Moment; copied: Copied },
  ): Promise<Manifest> {
    this.#tell('publishing', disks);
    const { stopped, ...context } = this.#context;
    const vm = { uuid: stopped.uuid, qemuVersion: client.version.text };
    const staging = this.#staged();
    const made = {
      run: this.#run,
      staging,
      facts: pointFacts(found, context.request),
      moment,
      disks: disks.map((disk) => ({ ...disk, bitmap: disk.disk.keepsBitmaps ? disk.bitmap : null })),
      copied,
    };
    const [, described] = await all([staging.sync(), describeFiles(context, made)]);
    await context.engine.reachStep('synced');
    return publish({ ...context, vm }, made, described);
  }

  /** What is left of them because a VM has started now, its next run removes. */
  async #removeOldBitmaps(point: Manifest): Promise<void> {
    const { engine, vault } = this.#context;
    const { images, bitmaps } = this.#record;
    await engine.reachStep('published');
    try {
      await imagePlace(engine.tools, images).removeBitmaps(
        (name) => isBitmapOf(vault.id, name) && !bitmaps.includes(name),
      );
    } catch (error) {
      this.warnings.push(`${point.id} is published; an old bitmap could not be removed: ${messageOf(error)}`);
    }
  }

  /** @param published as far as is known; an error after the rename may have been the last one */
  async #end(published: boolean): Promise<void> {
    const { engine } = this.#context;
    const kept = published || (this.#staging?.isPublished ?? false);
    await this.#daemon?.kill();
    const place = imagePlace(engine.tools, this.#record.images);
    this.warnings.push(...(await release(engine, place, this.#record, { published: kept })));
    if (kept || this.#staging === null) return;
    try {
      await bounded(this.#staging.discard(), { timeoutMs: NAS_CLEANUP_MS, what: 'the NAS' });
    } catch (error) {
      this.warnings.push(`removing the staging folder failed: ${messageOf(error)}`);
    }
  }

  #staged(): Staging {
    if (this.#staging !== null) return this.#staging;
    throw new QmpvaultError('internal', 'nothing was staged');
  }

  #tell(phase: BackupPhase, disks: readonly RunDisk[]): void {
    this.#context.control.onProgress?.(progressOf(phase, disks, []));
  }
}
