/**
 * The steps by which the disk of a child is freed from the point that goes. Each can be repeated, killed anywhere;
 * at every instant every other point reads the same bytes (m: 5.2, 7.2, 11.1).
 *
 * QEMU reports success although tables could not be written at the very end, and so does the kernel to whoever
 * opens a file later. So our own descriptor is open from the beginning and synced, and before a file is given up the
 * tables of the other one are read again.
 */
import * as fs from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { errnoOf, QmpvaultError } from '../base/errors.ts';
import { bytesLostWith, bytesOnlyIn } from '../image/layers.ts';
import { pullLayer } from '../image/pull.ts';
import { readQcow2Header } from '../image/qcow2-header.ts';
import { commitImage, compare, createImage, rebaseImage } from '../image/qemu-img.ts';
import type { DiskFile, Move } from '../vault/change.ts';
import { renameDurably, syncFile } from '../vault/durable.ts';
import { ioError, isErrno } from '../vault/io-error.ts';
import { backingLinkTo } from '../vault/links.ts';
import type { VmFolder } from '../vault/vm-folder.ts';
import type { UpkeepEngine } from './engine.ts';

export interface MoveContext {
  readonly engine: Pick<UpkeepEngine, 'tools' | 'runtimeDir'>;
  readonly folder: VmFolder;
  readonly signal?: AbortSignal | undefined;
  /** From 0 to 1, of what gathers or commits. */
  readonly onProgress?: ((fraction: number) => void) | undefined;
}

/** The step that may be undone: nothing that anybody reads by changes. */
export async function gather(context: MoveContext, move: Move): Promise<void> {
  if (move.how === 'pull') await pull(context, move);
  if (move.how === 'rewrite') await rewrite(context, move);
}

/** Makes the file that goes hold what the child holds; what it held itself is lost with that. */
export async function commit(
  { engine: { tools }, folder, signal, onProgress }: MoveContext,
  move: Move,
): Promise<void> {
  const [path, from] = [pathOf(folder, move), pathOf(folder, move.from)];
  if (move.how !== 'commit' || !(await exists(from))) return;
  await synced(from, () => commitImage(tools, { path }, { signal, onProgress }));
  const lost = await bytesLostWith(tools, { layer: path, over: from }, { signal });
  if (lost > 0) throw incomplete(from, path, lost);
}

/** Makes the child's file stand on its new backing file, in one instant. */
export async function switchOver(context: MoveContext, move: Move): Promise<void> {
  const { engine, folder } = context;
  const path = pathOf(folder, move);
  const made = move.how === 'rewrite' ? rewritten(path) : pathOf(folder, move.from);
  if (move.how === 'pull') {
    // One write within the first cluster, and no other file is opened.
    await synced(path, () =>
      rebaseImage(engine.tools, { path, backing: linkOf(move.backing), headerOnly: true }),
    );
  } else if (await exists(made)) {
    await renameDurably(made, path, async () => !(await exists(made)) && (await isSwitched(context, move)));
  } else if (!(await isSwitched(context, move))) {
    throw new QmpvaultError(
      'image-invalid',
      `${made} is missing: ${path} cannot do without it. Verify the vault.`,
      {
        details: { path: made },
      },
    );
  }
}

/** Takes back what `gather` made beside the child's file. What it pulled in stays, and does no harm. */
export async function discard({ folder }: Pick<MoveContext, 'folder'>, move: Move): Promise<void> {
  await fs.rm(rewritten(pathOf(folder, move)), { force: true });
}

async function pull({ engine, folder, signal, onProgress }: MoveContext, move: Move): Promise<void> {
  const [path, layer] = [pathOf(folder, move), pathOf(folder, move.from)];
  const { tools, runtimeDir } = engine;
  await synced(path, () => pullLayer(tools, { path, layer, runtimeDir }, { signal, onProgress }));
  const lost = await bytesOnlyIn(tools, { layer, over: path }, { signal });
  if (lost > 0) throw incomplete(path, layer, lost);
}

async function rewrite(
  { engine: { tools }, folder, signal, onProgress }: MoveContext,
  move: Move,
): Promise<void> {
  const path = pathOf(folder, move);
  const target = rewritten(path);
  const { virtualSizeBytes, clusterBytes } = await readQcow2Header(path);
  const image = { path: target, format: 'qcow2', sizeBytes: virtualSizeBytes, clusterBytes };
  await createImage(tools, { ...image, backing: { link: move.file, format: 'qcow2' } }, { signal });
  await synced(target, () =>
    rebaseImage(tools, { path: target, backing: linkOf(move.backing) }, { signal, onProgress }),
  );
  const isSame = await compare(tools, { a: path, aFormat: 'qcow2', b: target, bFormat: 'qcow2' }, { signal });
  if (!isSame) throw new QmpvaultError('image-invalid', `${target} does not hold what ${path} holds: repeat`);
}

/** Runs what writes to a file, and gets its bytes onto the NAS. */
async function synced(path: string, write: () => Promise<void>): Promise<void> {
  // Writable, though we never write: CIFS flushes through a writable handle only.
  const handle = await fs.open(path, 'r+').catch((error: unknown) => {
    throw ioError(error, 'opening', path);
  });
  try {
    await write().catch((error: unknown) => {
      throw isErrno(error, 'ENOSPC', 'EDQUOT') ? noRoom(path, error) : error;
    });
    await syncFile(handle, path);
  } finally {
    await handle.close();
  }
}

function noRoom(path: string, cause: unknown): QmpvaultError {
  return new QmpvaultError(
    'vault-full',
    `no space was left while merging into ${path}: no point is lost. Free some, or delete points that none needs; the next command goes on.`,
    { details: { path }, cause },
  );
}

async function isSwitched({ folder }: Pick<MoveContext, 'folder'>, move: Move): Promise<boolean> {
  const { backingLink } = await readQcow2Header(pathOf(folder, move));
  return backingLink === (linkOf(move.backing)?.link ?? null);
}

function linkOf(backing: DiskFile | null) {
  return backing && { link: backingLinkTo(backing.point, backing.file), format: 'qcow2' };
}

function rewritten(path: string): string {
  return join(dirname(path), `.merged-${path.slice(dirname(path).length + 1)}`);
}

function pathOf(folder: VmFolder, { point, file }: DiskFile): string {
  return join(folder.path, point, file);
}

async function exists(path: string): Promise<boolean> {
  return (
    (await fs.lstat(path).catch((error: unknown) => {
      if (errnoOf(error) === 'ENOENT') return null;
      throw ioError(error, 'looking for', path);
    })) !== null
  );
}

function incomplete(path: string, source: string, bytes: number): QmpvaultError {
  return new QmpvaultError(
    'image-tool-failed',
    `${path} lacks ${bytes} bytes of ${source} although QEMU reported success: nothing was given up for it`,
    { details: { path, source, bytes } },
  );
}
