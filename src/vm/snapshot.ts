/**
 * The snapshot that a run reads: per disk a copy-before-write filter, which saves the guest's old data to scratch
 * before it is overwritten, and a snapshot-access node, which shows the disk as it was at the moment.
 *
 * `on-cbw-error: break-snapshot`: trouble with scratch breaks our snapshot and never the guest's write.
 * `cbw-timeout` 4 s: above that the value overflows before QEMU 9.1. No `bitmap`: it would make the filter copy
 * only what the increment needs, but everything else then reads as an error instead of as itself.
 */
import { type QmpClient, QmpCommandError } from '../../qmp/index.ts';
import { QmpvaultError } from '../base/errors.ts';
import type { RunId } from '../base/ids.ts';
import type { NodeName } from './block-graph.ts';
import { ask } from './main-loop.ts';
import { runExport, runNode } from './run-names.ts';

const CBW_TIMEOUT_S = 4;

/** Adds the filter's node over a disk; it sees no I/O until the device is set to it. */
export async function addFilter(
  client: QmpClient,
  { run, index, root, scratch }: { run: RunId; index: number; root: NodeName; scratch: NodeName },
): Promise<void> {
  await client.execute('blockdev-add', {
    driver: 'copy-before-write',
    'node-name': runNode(run, 'filter', index),
    file: root,
    target: scratch,
    'on-cbw-error': 'break-snapshot',
    'cbw-timeout': CBW_TIMEOUT_S,
  });
}

/** Adds the node that reads the disk as it was when its filter was put in. */
export async function addAccess(
  client: QmpClient,
  { run, index }: { run: RunId; index: number },
): Promise<void> {
  await client.execute('blockdev-add', {
    driver: 'snapshot-access',
    'node-name': runNode(run, 'access', index),
    file: runNode(run, 'filter', index),
  });
}

const CONNECT_MS = 700;

/** Adds the writer's export of a target image as a node of the VM. Its disappearing fails I/O at once. */
export async function addTarget(
  client: QmpClient,
  { run, index, socket, exportName }: { run: RunId; index: number; socket: string; exportName: string },
): Promise<NodeName> {
  const node = runNode(run, 'target', index);
  const server = { type: 'unix', path: socket };
  // The main loop, and with it the guest, waits for the writer's greeting.
  const args = { driver: 'nbd', 'node-name': node, server, export: exportName };
  await ask(client, 'blockdev-add', { args, silenceMs: CONNECT_MS });
  return node;
}

/** The VM has one NBD server. @throws vm-nbd-taken when somebody else started it */
export async function startNbdServer(client: QmpClient, socket: string): Promise<void> {
  try {
    await client.execute('nbd-server-start', { addr: { type: 'unix', data: { path: socket } } });
  } catch (cause) {
    if (!(cause instanceof QmpCommandError)) throw cause;
    throw new QmpvaultError('vm-nbd-taken', `the VM's NBD server cannot be had: ${cause.description}`, {
      cause,
    });
  }
}

/** Its exports end with it, when their readers have gone. */
export async function stopNbdServer(client: QmpClient): Promise<void> {
  await client.execute('nbd-server-stop');
}

/** Lets others read a node over NBD: a snapshot, or a disk. */
export async function exportNode(
  client: QmpClient,
  { run, index, node, name }: { run: RunId; index: number; node: NodeName; name: string },
): Promise<void> {
  await client.execute('block-export-add', {
    type: 'nbd',
    id: runExport(run, index),
    'node-name': node,
    name,
  });
}
