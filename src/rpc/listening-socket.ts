/**
 * The unix socket that a server listens on: never taken from somebody who answers on it, never left behind, and seen by
 * others only when its mode and group are set.
 */
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { chmodSync, chownSync, lstatSync } from 'node:fs';
import { lstat, readFile, rename, rm } from 'node:fs/promises';
import { createConnection, type Server } from 'node:net';
import { dirname, join } from 'node:path';
import { errnoOf, messageOf, QmpvaultError } from '../base/errors.ts';
import { socketPath } from '../base/ids.ts';

export interface SocketPlace {
  readonly path: string;
  /** Its name in /etc/group, or its number; without: the group of this process. */
  readonly group?: string | null | undefined;
}

const MODE = 0o660;
/** The first that systemd passes on: sd_listen_fds(3). */
const FIRST_FD = 3;
const ANSWER_MS = 5_000;

/**
 * Listens at a path.
 * @returns what takes the socket away again
 * @throws path-too-long; socket-unfit: somebody answers there, it is no socket, or mode or group cannot be set
 */
export async function listenAt(server: Server, { path, group }: SocketPlace): Promise<() => Promise<void>> {
  const hidden = socketPath(join(dirname(socketPath(path)), `.${randomBytes(3).toString('hex')}`));
  const gid = group ? await groupId(group) : null;
  await refuseAnswering(path);
  try {
    server.listen(hidden);
    await once(server, 'listening');
    if (gid !== null) chownSync(hidden, process.getuid?.() ?? 0, gid);
    chmodSync(hidden, MODE);
    const { ino } = lstatSync(hidden);
    await rename(hidden, path);
    return () => removeOurs(path, ino);
  } catch (cause) {
    server.close();
    await rm(hidden, { force: true });
    throw unfit(path, `cannot listen on ${path}: ${messageOf(cause)}`, cause);
  }
}

/** The descriptor of a socket that systemd listens on for us; null: there is none. @throws usage for more than one */
export function inheritedSocket(env: NodeJS.ProcessEnv, pid = process.pid): number | null {
  if (env['LISTEN_PID'] !== String(pid)) return null;
  const count = Number(env['LISTEN_FDS']);
  if (count === 1) return FIRST_FD;
  const at = (env['LISTEN_FDNAMES'] ?? '').split(':').indexOf('rpc');
  if (at >= 0 && at < count) return FIRST_FD + at;
  throw new QmpvaultError(
    'usage',
    `systemd passes ${env['LISTEN_FDS']} sockets, and none of them is called rpc: set FileDescriptorName=rpc`,
  );
}

/** A stale socket refuses connections, and is replaced by the rename; everything else that is there stays. */
async function refuseAnswering(path: string): Promise<void> {
  const found = await lstat(path).catch((error: unknown) => {
    if (errnoOf(error) === 'ENOENT') return null;
    throw unfit(path, `cannot look at ${path}: ${messageOf(error)}`, error);
  });
  if (found === null) return;
  if (!found.isSocket()) throw unfit(path, `${path} is there and is no socket: it is left alone`);
  const socket = createConnection(path);
  socket.setTimeout(ANSWER_MS, () => socket.destroy(new Error('no answer')));
  try {
    await once(socket, 'connect');
  } catch (error) {
    if (errnoOf(error) === 'ECONNREFUSED' || errnoOf(error) === 'ENOENT') return;
    throw unfit(path, `cannot tell whether somebody listens on ${path}: ${messageOf(error)}`, error);
  } finally {
    socket.destroy();
  }
  throw unfit(path, `somebody listens on ${path} already: is another daemon running?`);
}

/** Not one that a successor has put in its place. */
async function removeOurs(path: string, ino: number): Promise<void> {
  const found = await lstat(path).catch(() => null);
  if (found?.ino === ino) await rm(path, { force: true });
}

/** Of /etc/group; of one that is known elsewhere the number can be given. */
async function groupId(group: string): Promise<number> {
  if (/^\d+$/.test(group)) return Number(group);
  const lines = (await readFile('/etc/group', 'utf8')).split('\n').map((line) => line.split(':'));
  const gid = lines.find(([name]) => name === group)?.[2];
  if (gid !== undefined) return Number(gid);
  throw new QmpvaultError('socket-unfit', `/etc/group has no group ${group}: make it, or write its number`, {
    details: { group },
  });
}

function unfit(path: string, message: string, cause?: unknown): QmpvaultError {
  return new QmpvaultError('socket-unfit', message, { details: { path }, cause });
}
