/** The start of a new run: everything made ready, the moment taken, the jobs started. */
import { messageOf, QmpvaultError } from '../base/errors.ts';
import { newPointId, newRunId } from '../base/ids.ts';
import { Guard } from '../image/guard.ts';
import { Writer } from '../image/writer.ts';
import { connectAgent } from '../vm/guest-agent.ts';
import { capture, makeReady } from './capture.ts';
import { bandwidthOf } from './copy.ts';
import { pointFacts } from './publish.ts';
import { Run, type RunContext, type StartRun } from './run.ts';
import { createFile, runDisks } from './run-disks.ts';
import { makeRunFolders, nbdSocket, runFolders } from './run-folders.ts';
import { refuseWithoutScratch } from './scratch-space.ts';
import type { RunDisk, RunSite } from './site.ts';
import type { Survey } from './survey.ts';
import { all } from './together.ts';

/** A run that carries out what was planned, and how it starts. */
export function newRun(context: RunContext, survey: Survey): { readonly run: Run; readonly start: StartRun } {
  const { engine, vault, folder, vm, request, beganMs } = context;
  const id = newRunId();
  const disks = runDisks(vault, survey, request.files);
  const facts = {
    format: 1,
    run: id,
    began: new Date(Date.now() - (performance.now() - beganMs)),
    vm: { name: folder.name, uuid: vm.uuid, socket: vm.socket },
    vault: { path: vault.path, id: vault.id },
    point: request.point ?? newPointId(new Date()),
    folders: runFolders(engine, id),
    bitmaps: disks.map(({ bitmap }) => bitmap.name),
    images: [],
  } as const;
  const run = new Run(context, facts);
  return { run, start: () => begin(run, disks, survey) };
}

async function begin(run: Run, disks: readonly RunDisk[], survey: Survey) {
  const { engine, request } = run.context;
  const snapshot = survey.noSnapshot === null;
  await engine.reachStep('journal');
  await run.own();
  if (!snapshot) run.warnings.push(readWithout(survey.noSnapshot));
  const compares = disks.some(({ plan }) => plan.how === 'resync');
  if (request.bandwidth !== undefined && compares) {
    run.warnings.push(
      'the bandwidth limit holds for copying, not for comparing disks that lost their bitmap',
    );
  }
  const site = await prepare(run, disks, snapshot);
  return capture(
    {
      ...site,
      taken: (moment) =>
        run.note({
          captured: { facts: pointFacts(survey, request), moment, snapshot, disks: disks.map(kept) },
        }),
    },
    snapshot,
  );
}

/** Everything that can be made ready before the guest is touched; the parts do not wait for each other. */
async function prepare(
  run: Run,
  disks: readonly RunDisk[],
  snapshot: boolean,
): Promise<Omit<RunSite, 'taken'>> {
  const { engine, vm, request, control } = run.context;
  const { signal } = control;
  const { folders } = run.facts;
  run.tell('preparing', disks);
  const surveyed = disks.map(({ disk }) => disk);
  const [running, process, standstill] = await Promise.all([
    vm.status(),
    vm.process(),
    snapshot && vm.mustStandStill(surveyed),
  ]);
  await makeRunFolders(folders, process);
  if (snapshot) await refuseWithoutScratch(folders.scratch, surveyed);
  const [staging, writer] = await all([
    stage(run, disks),
    startWriter(run),
    makeReady({ engine, vm, run: run.facts.run, disks, folders }, { snapshot, owner: process }),
    startGuard(run, running === 'running', snapshot && (standstill || disks.length > 1)),
  ]);
  // The writer opens the files that the VM's jobs will write.
  for (const { disk, file, plan } of disks) {
    const path = staging.diskPath(file);
    if (plan.how !== 'resync') await writer.addTarget({ name: disk.name, path }, { signal });
  }
  await writer.serve({ socketPath: nbdSocket(folders), signal });
  const { guard, agent } = run.held;
  const bandwidth = bandwidthOf(request, control);
  return {
    engine,
    request,
    run: run.facts.run,
    vm,
    disks,
    standstill,
    folders,
    guard,
    agent,
    bandwidth,
    signal,
  };
}

async function stage(run: Run, disks: readonly RunDisk[]) {
  const { engine, folder, lease } = run.context;
  const { point, folders, run: id } = run.facts;
  await engine.reachStep('staging');
  const staging = await folder.createStaging(point, lease, id);
  run.held.staging = staging;
  await all(disks.map((disk) => createFile(disk, { staging, folders })));
  return staging;
}

async function startWriter(run: Run): Promise<Writer> {
  const { engine, control } = run.context;
  const dir = run.facts.folders.writer;
  const writer = await Writer.start({ tools: engine.tools, dir, signal: control.signal });
  run.held.writer = writer;
  return writer;
}

/** A VM that does not run now may be resumed by its operator before the moment: the guard is there in any case. */
async function startGuard(run: Run, running: boolean, pauses: boolean): Promise<void> {
  const { vm, request, control } = run.context;
  if (running && request.agent !== undefined && request.quiesce !== 'off') {
    try {
      run.held.agent = await connectAgent(request.agent, { signal: control.signal });
    } catch (cause) {
      if (request.quiesce === 'required') throw new QmpvaultError('vm-agent', messageOf(cause), { cause });
      run.warnings.push(`${messageOf(cause)}; the restore point is crash-consistent`);
    }
  }
  const { agent } = run.held;
  if (!pauses && agent === null) return;
  run.held.guard = await Guard.start({
    qmp: vm.client.socket,
    qmpPath: vm.socket,
    ...(agent && { agent: agent.socket, agentPath: request.agent }),
  });
}

/** What of a disk stands in the journal. */
function kept({ index, disk, plan: { how }, backingLink, bitmap, file }: RunDisk) {
  const { name, device, node, format, image, sizeBytes } = disk;
  return {
    index,
    disk: { name, device, node, format, image, sizeBytes },
    plan: { how },
    backingLink,
    bitmap: { name: bitmap.name, pattern: bitmap.pattern },
    file,
  };
}

function readWithout(why: string | null): string {
  return `the disks are read without a snapshot (${why}): meanwhile a slow NAS slows the guest's writes down, and one that fails can fail them`;
}
