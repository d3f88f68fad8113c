/**
 * The second half of an instant restore: the overlays that a VM runs on are filled from the vault while it runs, and
 * then need it no more. A disk is taken out of its hold only when its image stands on nothing, by its header on the
 * disk. Killed anywhere, the overlay reads as before, and the next fill goes on.
 */
import { createHash } from 'node:crypto';
import { open, realpath } from 'node:fs/promises';
import { resolve } from 'node:path';
import { QmpvaultError } from '../base/errors.ts';
import type { DiskName, VmName } from '../base/ids.ts';
import { readQcow2Header } from '../image/qcow2-header.ts';
import { type Hold, isOfThisHost } from '../vault/holds.ts';
import type { Vault } from '../vault/vault.ts';
import type { VmFolder } from '../vault/vm-folder.ts';
import type { BlockGraph, BlockNode } from '../vm/block-graph.ts';
import { streamIn, streamJob } from '../vm/stream.ts';
import { Vm } from '../vm/vm.ts';
import type { BackupProgress, Engine, RunControl } from './engine.ts';

export interface FillRequest {
  /** As the vault calls it; the one that runs may have another name. */
  readonly vm: VmName;
  readonly qmp: string;
  /** Bytes per second. */
  readonly bandwidth?: number | undefined;
  readonly noProgressMs?: number | undefined;
}

export interface FillResult {
  readonly filled: readonly { readonly disk: DiskName; readonly path: string }[];
  /** Of this VM's instant restores, those that the VM on the socket does not use. */
  readonly left: readonly { readonly disk: DiskName; readonly path: string; readonly host: string }[];
}

interface Overlay {
  readonly hold: Hold;
  readonly disk: DiskName;
  readonly path: string;
  readonly node: BlockNode;
}

/** @throws vm-unreachable, vm-busy, disk-unknown when it runs on no instant restore, run-failed, run-stalled, vm-lost, cancelled */
export async function fillVm(
  engine: Pick<Engine, 'reachStep' | 'log'>,
  vault: Vault,
  request: FillRequest,
  { signal, onProgress }: Pick<RunControl, 'signal' | 'onProgress'> = {},
): Promise<FillResult> {
  const folder = vault.vm(request.vm);
  const holds = await folder.holds();
  const overlays = await overlaysOf(request.qmp, holds, signal);
  if (overlays.length === 0) throw noOverlay(folder, request.qmp, holds);
  const progress = overlays.map(({ disk, node }) => ({
    name: disk,
    doneBytes: 0,
    totalBytes: node.sizeBytes,
  }));
  for (const [i, overlay] of overlays.entries()) {
    const { disk, path, node } = overlay;
    engine.log.info({ vm: folder.name, disk, path }, 'filling an instant restore');
    await engine.reachStep('fill-stream');
    await streamIn({
      socket: request.qmp,
      node: node.name,
      job: streamJob(createHash('sha256').update(path).digest('hex').slice(0, 8)),
      bandwidth: request.bandwidth,
      noProgressMs: request.noProgressMs,
      signal,
      onProgress: (doneBytes, totalBytes) => {
        progress[i] = { name: disk, doneBytes, totalBytes };
        onProgress?.({ phase: 'copying', disks: [...progress] } satisfies BackupProgress);
      },
      onFilled: () => engine.reachStep('fill-finalize'),
    });
    await engine.reachStep('fill-release');
    await refuseUnfilled(path);
    await folder.releaseHold(overlay.hold, [disk]);
  }
  return { filled: overlays.map(({ disk, path }) => ({ disk, path })), left: leftOf(holds, overlays) };
}

/** The overlays that are open in the VM, wherever in its graph: one that was snapshotted since is no disk's image any more. */
async function overlaysOf(
  socket: string,
  holds: readonly Hold[],
  signal: AbortSignal | undefined,
): Promise<Overlay[]> {
  await using vm = await Vm.connect(socket, { signal });
  const [graph, { directory }] = await Promise.all([vm.graph(), vm.process()]);
  const images = await imagesOf(graph, directory);
  return holds.filter(isOfThisHost).flatMap((hold) =>
    hold.disks.flatMap(({ name: disk, path }) => {
      const node = images.get(path);
      return node === undefined ? [] : [{ hold, disk, path, node }];
    }),
  );
}

async function imagesOf({ nodes }: BlockGraph, directory: string | null): Promise<Map<string, BlockNode>> {
  const images = new Map<string, BlockNode>();
  for (const node of nodes.values()) {
    if (node.driver !== 'qcow2') continue;
    const path = resolve(directory ?? '/', node.filename);
    images.set(await realpath(path).catch(() => path), node);
  }
  return images;
}

/** By what is on the disk: a header in QEMU's memory survives no power cut. */
async function refuseUnfilled(path: string): Promise<void> {
  await using file = await open(path, 'r+');
  await file.sync();
  const { backingLink } = await readQcow2Header(path);
  if (backingLink === null) return;
  throw new QmpvaultError('run-failed', `${path} still stands on ${backingLink}: fill it again`, {
    details: { path, backingLink },
  });
}

function leftOf(holds: readonly Hold[], overlays: readonly Overlay[]): FillResult['left'] {
  return holds.flatMap((hold) =>
    hold.disks
      .filter(({ path }) => !overlays.some((overlay) => overlay.hold === hold && overlay.path === path))
      .map(({ name, path }) => ({ disk: name, path, host: hold.host })),
  );
}

function noOverlay(folder: VmFolder, socket: string, holds: readonly Hold[]): QmpvaultError {
  const known = holds.flatMap(({ host, disks }) => disks.map(({ path }) => `${path} on ${host}`));
  return new QmpvaultError(
    'disk-unknown',
    known.length === 0
      ? `no instant restore of ${folder.name} needs the vault`
      : `the VM on ${socket} runs on none of the instant restores of ${folder.name}: ${known.join(', ')}`,
    { details: { vm: folder.name, socket, known } },
  );
}
