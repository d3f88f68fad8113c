/**
 * A vault on a share that is mounted for one operation alone, and gone on every way out. Whoever starts the process may give
 * it a mount namespace of its own (scripts/nasbackup and the daemon do): then also a killed one leaves no mount.
 */
import { mkdir, mkdtemp, readdir, realpath, rmdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { codeOf, messageOf, QmpvaultError } from '../base/errors.ts';
import { mountFilesystem, unmountFilesystem } from '../image/mount.ts';
import { mountedAt, readMountTable } from '../image/mount-table.ts';
import { describe } from '../image/process-id.ts';
import { nameOf, type Share } from '../rpc/share.ts';
import { VaultMemory } from '../vault/memory.ts';
import type { OperationContext } from './operation.ts';

const UNMOUNT_MS = 30_000;

/**
 * @param work with the folder, in a context that knows the vault by the share's address: the folder is another one each time
 * @throws vault-away, cancelled, what `work` throws; with details.notCleanedUp where the mount is left besides
 */
export async function onShare<T>(
  share: Share,
  context: OperationContext,
  work: (vault: string, context: OperationContext) => Promise<T>,
): Promise<T> {
  if (share.type === 'path') return work(await folderOf(share), context);
  const { engine, signal } = context;
  await sweep(context);
  const dir = await mountPoint(context);
  let failure: { error: unknown } | undefined;
  let mounted = false;
  try {
    const { type, address: source, options, mountTimeoutMs: timeoutMs } = share;
    await mountFilesystem({ type, source, options, dir, timeoutMs, signal });
    mounted = true;
    return await work(dir, { ...context, memory: memoryOf(share, context) });
  } catch (error) {
    failure = { error };
    throw error;
  } finally {
    await unmount(dir, context, mounted).catch((error: unknown) => {
      engine.log.warn({ dir }, messageOf(error));
      // What was done is done: the size of a backup that was made has to be told.
      if (failure !== undefined) throw notCleanedUp(failure.error, dir, error);
    });
  }
}

function notCleanedUp(failure: unknown, dir: string, left: unknown): QmpvaultError {
  const details = failure instanceof QmpvaultError ? failure.details : {};
  return new QmpvaultError(codeOf(failure), `${messageOf(failure)}; and then ${messageOf(left)}`, {
    details: { ...details, notCleanedUp: dir },
    cause: failure,
  });
}

function memoryOf({ type, address }: Share, { engine }: OperationContext): OperationContext['memory'] {
  const memory = new VaultMemory(engine.stateDir);
  const key = `/${type}/${address}`;
  return { recall: () => memory.recall(key), remember: (_, id) => memory.remember(key, id) };
}

async function folderOf(share: Share): Promise<string> {
  const { address } = share;
  const found = await stat(address).catch(() => null);
  if (found?.isDirectory()) return address;
  throw new QmpvaultError('vault-away', `${address} is no folder: is the repository mounted?`, {
    details: { path: address, share: nameOf(share) },
  });
}

/** Named for its process: a mount point must not be removed under a living one, which would detach what is mounted there. */
async function mountPoint({ engine: { runtimeDir } }: OperationContext): Promise<string> {
  await mkdir(runtimeDir, { recursive: true, mode: 0o711 });
  const self = await describe(process.pid);
  return mkdtemp(join(await realpath(runtimeDir), `nas-${process.pid}-${self?.startTime}-`));
}

/** What killed ones left: folders and, without a namespace of their own, mounts. */
async function sweep(context: OperationContext): Promise<void> {
  const { runtimeDir, log } = context.engine;
  const folder = await realpath(runtimeDir).catch(() => runtimeDir);
  for (const name of await readdir(folder).catch(() => [])) {
    const [, pid, startTime] = /^nas-(\d+)-(\d+)-/.exec(name) ?? [];
    if (pid === undefined || (await describe(Number(pid)))?.startTime === Number(startTime)) continue;
    await unmount(join(folder, name), context).catch((error: unknown) => {
      log.warn({ name }, messageOf(error));
    });
  }
}

/** Also of what is not mounted, or not any more. @throws vault-unreadable */
async function unmount(dir: string, { engine }: OperationContext, mounted = false): Promise<void> {
  if (mounted || mountedAt(await readMountTable(), dir) !== null) {
    await unmountFilesystem(dir, { timeoutMs: UNMOUNT_MS }).catch(async (error: unknown) => {
      engine.log.warn({ dir }, `${messageOf(error)}: it is detached instead`);
      await unmountFilesystem(dir, { timeoutMs: UNMOUNT_MS, lazy: true });
    });
  }
  await rmdir(dir).catch((cause: unknown) => {
    throw new QmpvaultError('vault-unreadable', `${dir} could not be removed: ${messageOf(cause)}`, {
      cause,
    });
  });
}
