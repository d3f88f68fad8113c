/**
 * Shows the disks of a restore point over NBD, read-only, without copying them: for single files, for tools of others.
 * It reads as a restore does, registered, for as long as it serves; a storage daemon of its own opens the images, and
 * dies with us. So whatever ends us, nobody waits for this reader afterwards.
 */
import { randomBytes } from 'node:crypto';
import { lstat, mkdir, rm } from 'node:fs/promises';
import { createConnection } from 'node:net';
import { dirname, join } from 'node:path';
import { bounded, untilAborted } from '../base/deadline.ts';
import { errnoOf, QmpvaultError } from '../base/errors.ts';
import { type DiskName, type PointId, socketPath, type VmName } from '../base/ids.ts';
import { nbdLink } from '../base/nbd-link.ts';
import type { QemuTools } from '../image/tools.ts';
import { Writer } from '../image/writer.ts';
import type { Reader } from '../vault/readers.ts';
import type { Vault } from '../vault/vault.ts';
import { OpenPoint, type PointWish } from './open-point.ts';
import { makeOwnFolder, sweepOwnFolders } from './own-folder.ts';
import { diskChain } from './restore-plan.ts';

export interface ServeRequest extends PointWish {
  /** Where to serve; default: in a folder of ours that only this user can enter. */
  readonly socket?: string | undefined;
}

export interface Served {
  readonly vm: VmName;
  readonly point: PointId;
  readonly socket: string;
  /** `name` of the export is the disk's. */
  readonly exports: readonly {
    readonly disk: DiskName;
    readonly uri: string;
    readonly virtualSizeBytes: number;
  }[];
  readonly warnings: readonly string[];
}

export interface ServeControl {
  /** Ends it, which is no error. */
  readonly signal: AbortSignal;
  readonly onServing: (served: Served) => void;
}

/** What this needs on this host. */
export interface ServeEngine {
  readonly tools: QemuTools;
  /** For sockets: a short path. */
  readonly runtimeDir: string;
}

const FOLDER = /^qv-serve-[0-9a-f]{8}$/;
/** How often it is asked whether the registration still stands. */
const LOOK_MS = 10_000;
/** How long clients that read and a NAS that hangs may keep it from its end. */
const END_MS = 3_000;

/**
 * Serves until the signal says that it is enough.
 * @throws as OpenPoint.open; target-exists when the socket's path is taken; path-too-long, writer-failed, lease-lost
 */
export async function servePoint(
  engine: ServeEngine,
  vault: Vault,
  request: ServeRequest,
  { signal, onServing }: ServeControl,
): Promise<Served> {
  await sweepOwnFolders(engine.runtimeDir, FOLDER);
  const dir = join(engine.runtimeDir, `qv-serve-${randomBytes(4).toString('hex')}`);
  const socket = socketPath(request.socket ?? join(dir, 'nbd.sock'));
  await using open = await OpenPoint.open(vault, request, { what: 'serve-nbd', signal });
  const { vm, point, listing, reader } = open;
  const disks = await open.check(point.disks.map(({ name }) => diskChain(listing, point, name)));
  await refuseTaken(socket);
  let writer: Writer | undefined;
  try {
    await makeOwnFolder(dir);
    await mkdir(dirname(socket), { recursive: true });
    writer = await Writer.start({ tools: engine.tools, dir, diesWithUs: true, signal });
    for (const { disk, source } of disks) await writer.addSource({ name: disk, path: source }, { signal });
    await writer.serve({ socketPath: socket, mode: 0o600, signal });
    const served = {
      vm: vm.name,
      point: point.id,
      socket,
      exports: disks.map(({ disk, virtualSizeBytes }) => ({
        disk,
        uri: nbdLink(socket, disk),
        virtualSizeBytes,
      })),
      warnings: [...open.warnings, ...unregistered(reader)],
    };
    onServing(served);
    await servedEnough(writer, reader, signal);
    return served;
  } finally {
    await end(writer, socket);
    await rm(dir, { recursive: true, force: true });
  }
}

async function servedEnough(writer: Writer, reader: Reader, signal: AbortSignal): Promise<void> {
  const enough = new AbortController();
  const stop = AbortSignal.any([signal, enough.signal]);
  try {
    await Promise.race([
      untilAborted(signal),
      writer.exited.then(() => {
        throw new QmpvaultError(
          'writer-failed',
          `qemu-storage-daemon (pid ${writer.pid}) ended while it served`,
        );
      }),
      stayRegistered(reader, stop),
    ]);
  } finally {
    enough.abort();
  }
}

/** A host that slept for longer than the term may find the points changed. @throws lease-lost */
async function stayRegistered(reader: Reader, stop: AbortSignal): Promise<void> {
  while (!stop.aborted) {
    await reader.assertRegistered();
    await untilAborted(stop, LOOK_MS);
  }
}

/** In order if it can: QEMU takes its socket away then. */
async function end(writer: Writer | undefined, socket: string): Promise<void> {
  if (writer === undefined) return;
  try {
    await bounded(writer.finish({ timeoutMs: END_MS }), { timeoutMs: END_MS, what: 'the end of serving' });
  } catch {
    await writer.kill();
    await rm(socket, { force: true });
  }
}

function unregistered(reader: Reader): string[] {
  return reader.isRegistered
    ? []
    : ['the vault cannot be written, so nobody knows that it is being read: change no points meanwhile'];
}

/** QEMU would put its socket in the place of whatever is there. */
async function refuseTaken(path: string): Promise<void> {
  const found = await lstat(path).catch(() => null);
  if (found === null || (found.isSocket() && !(await listens(path)))) return;
  throw new QmpvaultError('target-exists', `${path} is taken: serve on another socket with --socket`, {
    details: { path },
  });
}

async function listens(path: string): Promise<boolean> {
  const { promise, resolve } = Promise.withResolvers<boolean>();
  const socket = createConnection(path);
  socket.once('connect', () => resolve(true));
  socket.once('error', (error) => resolve(errnoOf(error) !== 'ECONNREFUSED'));
  return promise.finally(() => socket.destroy());
}
