/**
 * Taking the moment of all disks and starting to read it, in the order that capture.md argues for: whatever can
 * fail without touching the guest comes first; the new bitmaps come before the moment, so that they may hold too
 * much and never too little; the jobs read a snapshot whose old data goes to local scratch, so that a slow or full
 * NAS never reaches the guest.
 */
import { join } from 'node:path';
import { QmpvaultError } from '../base/errors.ts';
import { KiB } from '../base/units.ts';
import { addBitmapActions, type BitmapRef, drawPatterns } from '../vm/bitmaps.ts';
import type { NodeName } from '../vm/block-graph.ts';
import { CopyJobs, copyAction, shareOf, WORKERS } from '../vm/copy-jobs.ts';
import { TARGETS_PATIENCE_MS } from '../vm/main-loop.ts';
import { type Moment, takeAt, takeMoment } from '../vm/moment.ts';
import { runNode } from '../vm/run-names.ts';
import { addScratch } from '../vm/scratch.ts';
import { addAccess, addFilter, addTarget, exportNode, startNbdServer } from '../vm/snapshot.ts';
import type { Vm } from '../vm/vm.ts';
import type { VmProcess } from '../vm/vm-process.ts';
import { findData } from './holes.ts';
import { makeScratch, nbdSocket, vmNbdSocket } from './run-folders.ts';
import type { RunSite } from './site.ts';
import { all } from './together.ts';

/**
 * The writer already serves the targets. After an error jobs may be at work: unwinding ends them.
 * @returns the jobs that read the moment; the disks to compare can be read over NBD
 * @throws vm-agent when a freeze is required and it is not sure that it lasted until the moment; qmp-* errors
 */
export function capture(site: RunSite, snapshot: boolean): Promise<CopyJobs> {
  return snapshot ? captureThroughSnapshot(site) : captureFromSource(site);
}

function refuseUnfrozen({ request }: RunSite, { consistency, warnings }: Moment): void {
  if (request.quiesce !== 'required' || consistency === 'filesystem') return;
  throw new QmpvaultError(
    'vm-agent',
    `the guest's filesystems may have been thawed before the moment: ${warnings.join('; ')}`,
  );
}

async function captureThroughSnapshot(site: RunSite): Promise<CopyJobs> {
  const { vm, run, disks, engine, standstill } = site;
  const { client } = vm;
  const { reachStep } = engine;
  if (disks.some(({ plan }) => plan.how === 'resync'))
    await startNbdServer(client, vmNbdSocket(site.folders));
  const addFilters = async () => {
    for (const { index, disk } of disks)
      await addFilter(client, { run, index, root: disk.root, scratch: runNode(run, 'scratch', index) });
  };
  const addAccesses = async () => {
    for (const { index } of disks) await addAccess(client, { run, index });
  };
  if (!standstill) await addFilters();
  await reachStep('bitmaps');
  await client.execute('transaction', { actions: bitmapActions(site) });
  const data = await findData(site);
  await reachStep('moment');
  const moment = await takeMoment({
    ...momentOptions(site),
    disks: disks.map(({ index, disk: { device, root } }) => ({
      device,
      root,
      filter: runNode(run, 'filter', index),
    })),
    atRest: standstill ? { before: addFilters, after: addAccesses } : null,
  });
  refuseUnfrozen(site, moment);
  await reachStep('jobs');
  await all([site.taken(moment), ...(standstill ? [] : [addAccesses()])]);
  // As late as can be: while the VM has them open, a `stop` or a reset flushes them, and a NAS that hangs holds it.
  const targets = await addTargets(site);
  await reachStep('targets');
  const extra = { ...(await tuning(vm, BESIDE_THE_GUEST)), speed: shareOf(site.bandwidth(), targets.size) };
  const actions: object[] = [];
  for (const { index, disk, plan } of disks) {
    const source = runNode(run, 'access', index);
    if (plan.how === 'resync') {
      await exportNode(client, { run, index, node: source, name: disk.name });
      continue;
    }
    const wanted = plan.how === 'tracked' ? [{ node: disk.node, name: plan.bitmap }] : data.get(index);
    if (wanted !== undefined) await copyBitmaps(client, wanted, source);
    const bitmap = wanted === undefined ? null : DELTA;
    const target = targets.get(index);
    if (target !== undefined) actions.push(copyAction(run, { index, source, target, bitmap }, extra));
  }
  const indexes = [...targets.keys()];
  return CopyJobs.start(client, { run, indexes, actions, grouped: true });
}

/**
 * Without copy-before-write (QEMU < 7.1): the new bitmaps and the jobs, straight from the source, begin in one
 * transaction, which is the moment. A guest write may now wait for the NAS.
 */
async function captureFromSource(site: RunSite): Promise<CopyJobs> {
  const { vm, run, disks, engine } = site;
  const perf = await tuning(vm, BEFORE_THE_GUEST);
  const targets = await addTargets(site);
  const copies = disks.map(({ index, disk, plan }) =>
    copyAction(
      run,
      {
        index,
        source: disk.node,
        target: targets.get(index) as NodeName,
        bitmap: plan.how === 'tracked' ? plan.bitmap : null,
      },
      { ...perf, speed: shareOf(site.bandwidth(), disks.length) },
    ),
  );
  const indexes = disks.map(({ index }) => index);
  await engine.reachStep('moment');
  const { moment, result: jobs } = await takeAt(momentOptions(site), () =>
    CopyJobs.start(vm.client, { run, indexes, actions: [...bitmapActions(site), ...copies], grouped: false }),
  );
  try {
    refuseUnfrozen(site, moment);
    await site.taken(moment);
    return jobs;
  } catch (error) {
    jobs.close();
    throw error;
  }
}

/**
 * QEMU's default is 64 requests of 1 MiB at a time, which pass through the thread that also serves the guest: its
 * writes then take up to 30-110 ms, with 8 at most 20-30, and a full takes 15 % less time (m: 7.2 and 11.1).
 */
const BESIDE_THE_GUEST = { 'max-workers': WORKERS };
/** Small and few requests bound how long a guest's write waits for one: at most 0.6 s at 2 MB/s (m). */
const BEFORE_THE_GUEST = { 'max-workers': 4, 'max-chunk': 256 * KiB };

/** `x-perf`: 6.0. */
async function tuning(vm: Vm, perf: object): Promise<object> {
  return (await vm.capabilities()).backupTuning ? { 'x-perf': perf } : {};
}

/** Name of the bitmap, on the snapshot, that says what is copied, where that is not all. */
const DELTA = 'delta';

async function copyBitmaps(client: Vm['client'], from: readonly BitmapRef[], to: NodeName): Promise<void> {
  await client.execute('block-dirty-bitmap-add', { node: to, name: DELTA, disabled: true });
  const bitmaps = from.map(({ node, name }) => ({ node, name }));
  await client.execute('block-dirty-bitmap-merge', { node: to, target: DELTA, bitmaps });
}

/** The writer's exports as nodes of the VM, by the disk's index; a disk that is compared needs none. */
async function addTargets({ vm, run, disks, folders }: RunSite): Promise<Map<number, NodeName>> {
  vm.client.patienceMs = TARGETS_PATIENCE_MS;
  const socket = nbdSocket(folders);
  const targets = new Map<number, NodeName>();
  for (const { index, disk, plan } of disks) {
    if (plan.how === 'resync') continue;
    targets.set(index, await addTarget(vm.client, { run, index, socket, exportName: disk.name }));
  }
  return targets;
}

/**
 * What can be made in the VM before anything is on the NAS: no disk of the guest has to do with it yet.
 * @param snapshot with scratch images
 */
export async function makeReady(
  { engine, vm, run, disks, folders }: Pick<RunSite, 'engine' | 'vm' | 'run' | 'disks' | 'folders'>,
  { snapshot, owner }: { snapshot: boolean; owner: VmProcess },
): Promise<void> {
  await engine.reachStep('scratch');
  const addScratches = async () => {
    const pathOf = (index: number) => join(folders.scratch, `${index}.qcow2`);
    await all(
      disks.map(({ index, disk }) => makeScratch({ path: pathOf(index), sizeBytes: disk.sizeBytes, owner })),
    );
    for (const { index } of disks) await addScratch(vm.client, { run, index, path: pathOf(index) });
  };
  const patterns = disks.map(({ index, disk, bitmap }) => ({
    node: runNode(run, 'pattern', index),
    sizeBytes: disk.sizeBytes,
    clusters: bitmap.pattern,
  }));
  await all([drawPatterns(vm.client, patterns), snapshot && addScratches()]);
}

function bitmapActions({ run, disks }: RunSite): object[] {
  return addBitmapActions(
    disks.map(({ index, bitmap }) => ({ bitmap, patternNode: runNode(run, 'pattern', index) })),
  );
}

function momentOptions({ vm, guard, agent, request, engine }: RunSite) {
  const { quiesce, freezeMs } = request;
  return { client: vm.client, guard, agent, quiesce, freezeMs, reachStep: engine.reachStep };
}
