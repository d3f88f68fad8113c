/**
 * Taking out of a VM whatever runs of ours put in: one path for success, failure and for what a dead run left.
 *
 * It reads the graph and does not remember it, since anybody may have changed it meanwhile:
 * - by node, a snapshot's overlay lies below our filter: the device is set to the filter's present child;
 * - by device, it lies above, with our filter as its backing file. It is reopened on the filter's child. Its
 *   header still names the format `copy-before-wri`, with which the VM could not start again, so that is warned of.
 *
 * Jobs are ended first: while one has I/O in flight to a hung writer, a `qom-set` or `blockdev-del` would hang
 * QEMU's main loop. `job-cancel` alone leaves such a job running. An out-of-band `yank` of its target frees it, also
 * when the main loop hangs already, but not when a request was just being sent: a unix socket that was shut down
 * does not become writable while the peer has not read (m, 7.2 to 11.1). Then the death of the writer does, which in
 * turn may not come while it sleeps in the kernel on a hung NFS, with its requests received. So: both, at once.
 */
import { z } from 'zod';
import { type QmpClient, QmpError } from '../../qmp/index.ts';
import { until } from '../base/deadline.ts';
import { messageOf, QmpvaultError } from '../base/errors.ts';
import type { RunId } from '../base/ids.ts';
import { type BlockGraph, type NodeName, type Nodes, readBlockGraph, readNodes } from './block-graph.ts';
import { setDrive } from './moment.ts';
import { isRunNode, runOf } from './run-names.ts';
import { isListening } from './vm-process.ts';

export interface UnwindOptions {
  readonly client: QmpClient;
  /** Which runs to take out; one that lives belongs to somebody else. */
  readonly owns: (run: RunId) => boolean;
  readonly canYank: boolean;
  /** The second means against a hung writer. @returns whether it is dead */
  readonly killWriter: () => Promise<boolean>;
  /** Where the VM's NBD server listens if it is these runs' own: nobody else starts one there. */
  readonly nbdServer: string | null;
  /** The copies are done and the writer has disconnected: nothing here can wait for the NAS. */
  readonly orderly: boolean;
}

const ExportsReply = z.array(z.object({ id: z.string() }));
const JobsReply = z.array(z.object({ id: z.string(), status: z.string() }));
const NodeOptionsReply = z.array(
  z.object({
    'node-name': z.string(),
    detect_zeroes: z.string(),
    cache: z.object({ direct: z.boolean(), 'no-flush': z.boolean() }),
  }),
);

/** A main loop that does not answer in this time may hang, and the guest with it; the jobs are to end anyway. */
const SILENCE_MS = 100;
const CANCEL_MS = 1_500;
const YANK_MS = 5_000;

/**
 * When it returns, QEMU has said that nothing of these runs is left. What is left in would go on saving the guest's old data
 * to scratch space, and nobody would watch that: so what a busy host did not do in time is tried once more.
 * @returns warnings for the operator
 * @throws vm-left-unclean naming what could not be taken out; calling again goes on from there
 */
export async function unwind(options: UnwindOptions): Promise<string[]> {
  const warnings: string[] = [];
  try {
    await takeAllOut(options, warnings);
  } catch (error) {
    if (options.orderly || !options.client.isOpen) throw error;
    await takeAllOut(options, warnings);
  }
  return warnings;
}

async function takeAllOut(options: UnwindOptions, warnings: string[]): Promise<void> {
  await endJobs(options);
  // Closing a target flushes it, and the main loop waits for that: not with a NAS that may hang (m).
  if (!options.orderly) await cutTargets(options);
  await stopNbdServer(options);
  // A filter that is still read lets nobody else write to its disk: its readers, which nothing stands on, go before the
  // device comes back.
  const readers = ownedNodes(await readNodes(options.client), options.owns);
  await deleteNodes(
    options,
    readers.filter((node) => isRunNode(node, 'access')),
  );
  const graph = await readBlockGraph(options.client);
  warnings.push(...(await releaseDevices(options, graph)));
  await deleteNodes(options, fromTheTop(graph, ownedNodes(graph.nodes, options.owns)));
  const left = [...(await findRuns(options.client)).keys()].filter(options.owns);
  if (left.length === 0) return;
  throw new QmpvaultError('vm-left-unclean', `nodes or jobs of ${left.join(', ')} are still in the VM`);
}

/** The runs of which anything is left in a VM, with whether a job of theirs is still at work. */
export async function findRuns(client: QmpClient): Promise<Map<RunId, { working: boolean }>> {
  const [nodes, jobs] = await Promise.all([readNodes(client), client.execute('query-jobs')]);
  const found = new Map<RunId, { working: boolean }>();
  for (const name of nodes.keys()) {
    const run = runOf(name);
    if (run !== null) found.set(run, { working: false });
  }
  for (const job of JobsReply.parse(jobs)) {
    const run = runOf(job.id);
    if (run !== null) found.set(run, { working: found.get(run)?.working || job.status !== 'concluded' });
  }
  return found;
}

async function endJobs(options: UnwindOptions): Promise<void> {
  const { client, owns, orderly } = options;
  const ours = async (timeoutMs: number) => {
    const jobs = JobsReply.parse(await client.execute('query-jobs', {}, { timeoutMs }));
    return jobs.filter(({ id }) => {
      const run = runOf(id);
      return run !== null && owns(run);
    });
  };
  const listener = client.listen((event) => event.name === 'JOB_STATUS_CHANGE');
  /** All jobs, once they have concluded; null: not in time, or the main loop does not answer. */
  const concluded = async (timeoutMs: number): Promise<{ id: string }[] | null> => {
    const end = performance.now() + timeoutMs;
    try {
      for (;;) {
        const left = Math.max(1, end - performance.now());
        const jobs = await ours(left);
        if (jobs.every((job) => job.status === 'concluded')) return jobs;
        await listener.next({ timeoutMs: left });
      }
    } catch (error) {
      if (error instanceof QmpError && error.code === 'qmp-timeout') return null;
      throw error;
    }
  };
  try {
    const answered = await cancelWorking(client, ours, orderly ? CANCEL_MS : SILENCE_MS);
    let over = answered ? await concluded(CANCEL_MS) : null;
    if (over === null) {
      await cutTargets(options);
      over = await concluded(YANK_MS);
    }
    if (over === null) {
      throw new QmpvaultError(
        'vm-left-unclean',
        'a copy job in the VM could not be ended; run the command again',
      );
    }
    for (const { id } of over) await client.execute('job-dismiss', { id });
  } finally {
    listener.close();
  }
}

/** @returns whether the main loop answers */
async function cancelWorking(
  client: QmpClient,
  ours: (timeoutMs: number) => Promise<{ id: string; status: string }[]>,
  silenceMs: number,
): Promise<boolean> {
  try {
    for (const { id, status } of await ours(silenceMs)) {
      if (status === 'concluded') continue;
      // A refusal: it ended by itself.
      await client.execute('job-cancel', { id }, { timeoutMs: silenceMs }).catch(unlessRefused);
    }
    return true;
  } catch (error) {
    if (error instanceof QmpError && error.code === 'qmp-timeout') return false;
    throw error;
  }
}

function unlessRefused(error: unknown): void {
  if (!(error instanceof QmpError && error.code === 'qmp-command')) throw error;
}

/** With the writer dead, or its connections cut, nothing in the VM waits for the NAS: one of the two is enough. */
async function cutTargets({ client, owns, canYank, killWriter }: UnwindOptions): Promise<void> {
  const [cut, killed] = await Promise.allSettled([
    canYank ? yankTargets(client, owns) : undefined,
    killWriter(),
  ]);
  if (killed.status === 'fulfilled' && killed.value) return;
  if (cut.status === 'rejected') throw cut.reason;
  if (killed.status === 'rejected') throw killed.reason;
}

/** Asks yank itself what can be yanked: it answers out of band, the block graph may not. */
async function yankTargets(client: QmpClient, owns: (run: RunId) => boolean): Promise<void> {
  const InstancesReply = z.array(z.object({ type: z.string(), 'node-name': z.string().optional() }));
  const all = InstancesReply.parse(
    await client.execute('query-yank', {}, { oob: true, timeoutMs: CANCEL_MS }),
  );
  const instances = all.filter((instance) => {
    const run = instance['node-name'] === undefined ? null : runOf(instance['node-name']);
    return run !== null && owns(run);
  });
  if (instances.length > 0) await client.execute('yank', { instances }, { oob: true, timeoutMs: CANCEL_MS });
}

/** A server of our own ends with its exports. In one of somebody else, or of a run without a journal, only ours end. */
async function stopNbdServer({ client, owns, nbdServer }: UnwindOptions): Promise<void> {
  if (nbdServer !== null && (await isListening(nbdServer))) await client.execute('nbd-server-stop');
  const left = await ownedExports(client, owns);
  for (const id of left) await client.execute('block-export-del', { id, mode: 'hard' });
  if (left.length === 0) return;
  const gone = async () => (await ownedExports(client, owns)).length === 0 || undefined;
  await until(gone, { timeoutMs: CANCEL_MS, what: 'the end of exports', code: 'vm-left-unclean' });
}

async function ownedExports(client: QmpClient, owns: (run: RunId) => boolean): Promise<string[]> {
  // Missing before 5.2.
  const reply = await client.execute('query-block-exports').catch((error) => {
    unlessRefused(error);
    return [];
  });
  const exports = ExportsReply.parse(reply);
  return exports
    .map(({ id }) => id)
    .filter((id) => {
      const run = runOf(id);
      return run !== null && owns(run);
    });
}

/** @param graph as it is right now */
async function releaseDevices({ client, owns }: UnwindOptions, graph: BlockGraph): Promise<string[]> {
  const warnings: string[] = [];
  for (const filter of ownedNodes(graph.nodes, owns).filter((node) => isRunNode(node, 'filter'))) {
    const child = graph.child(filter, 'file');
    if (child === null) continue;
    for (const device of graph.devices) {
      if (device.root === filter && device.qomPath !== null) await setDrive(client, device.qomPath, child);
    }
    for (const { parent, role } of graph.parents(filter)) {
      if (role !== 'backing') continue;
      await putOnChild(client, graph, parent, child);
      warnings.push(
        `somebody took a snapshot of a disk during the run: the header of ${graph.nodes.get(parent)?.filename} names a backing format with which the VM cannot start again. Mend it while the VM is stopped: qemu-img rebase -u -F ${graph.nodes.get(child)?.driver} -b ${graph.nodes.get(child)?.filename} ${graph.nodes.get(parent)?.filename}`,
      );
    }
  }
  return warnings;
}

/** `blockdev-reopen` resets every option that it is not given: what QEMU tells of the node is given again. */
async function putOnChild(
  client: QmpClient,
  graph: BlockGraph,
  overlay: NodeName,
  backing: NodeName,
): Promise<void> {
  const nodes = NodeOptionsReply.parse(await client.execute('query-named-block-nodes', { flat: true }));
  const present = nodes.find((node) => node['node-name'] === overlay);
  await client.execute('blockdev-reopen', {
    options: [
      {
        driver: graph.nodes.get(overlay)?.driver,
        'node-name': overlay,
        file: graph.child(overlay, 'file'),
        backing,
        discard: 'unmap',
        ...(present && {
          'detect-zeroes': present.detect_zeroes,
          cache: { direct: present.cache.direct, 'no-flush': present.cache['no-flush'] },
        }),
      },
    ],
  });
}

function ownedNodes(nodes: Nodes, owns: (run: RunId) => boolean): NodeName[] {
  return [...nodes.keys()].filter((name) => {
    const run = runOf(name);
    return run !== null && owns(run);
  });
}

/** A node goes when nothing else of ours stands on it any more. */
function fromTheTop(graph: BlockGraph, nodes: readonly NodeName[]): NodeName[] {
  const left = new Set(nodes);
  const order: NodeName[] = [];
  while (left.size > 0) {
    const free = [...left].filter((node) => !graph.parents(node).some(({ parent }) => left.has(parent)));
    // No graph of QEMU's has a circle.
    if (free.length === 0) break;
    for (const node of free) left.delete(node);
    order.push(...free);
  }
  return order;
}

/** Whatever becomes of one of them, the others are tried: QEMU refuses what is still in use. */
async function deleteNodes({ client }: UnwindOptions, nodes: readonly NodeName[]): Promise<void> {
  const trouble: string[] = [];
  for (const node of nodes) {
    try {
      await client.execute('blockdev-del', { 'node-name': node });
    } catch (error) {
      if (!(error instanceof QmpError && error.code === 'qmp-command')) throw error;
      trouble.push(`${node}: ${messageOf(error)}`);
    }
  }
  if (trouble.length === 0) return;
  throw new QmpvaultError(
    'vm-left-unclean',
    `nodes of ours could not be taken out of the VM: ${trouble.join('; ')}`,
    {
      details: { trouble },
    },
  );
}
