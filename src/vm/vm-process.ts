/**
 * Which process is behind a QMP socket, and as which user it works. Node cannot ask for a peer's credentials, so
 * /proc is read: the listening socket's inode, then the process that has it open.
 */
import { readdir, readFile, readlink, realpath, stat } from 'node:fs/promises';

export interface VmProcess {
  /** Null where /proc does not show it (another user's process). */
  readonly pid: number | null;
  readonly uid: number;
  readonly gid: number;
  /** Its working directory, to which the relative names of images belong; null where that cannot be seen. */
  readonly directory: string | null;
  /** Tells the program that it runs from others, also of the same version; null where that cannot be seen. */
  readonly binary: string | null;
}

/** The user that opens and creates files for the VM; where its process cannot be seen, the socket file's owner. */
export async function vmProcessOf(socket: string): Promise<VmProcess> {
  const inodes = await listeningInodes(socket);
  for (const pid of inodes.size === 0 ? [] : await processes()) {
    if (!(await holdsSocket(pid, inodes))) continue;
    const ids = await fileUserOf(pid);
    if (ids === null) continue;
    const [directory, binary] = await Promise.all([
      readlink(`/proc/${pid}/cwd`).catch(() => null),
      binaryOf(pid).catch(() => null),
    ]);
    return { pid, ...ids, directory, binary };
  }
  const { uid, gid } = await stat(socket);
  return { pid: null, uid, gid, directory: null, binary: null };
}

/** Whether any process listens on this path. */
export async function isListening(socket: string): Promise<boolean> {
  return (await listeningInodes(socket)).size > 0;
}

/** Those of the paths on which some process listens. Connects to none of them. */
export async function listeningAmong(sockets: readonly string[]): Promise<Set<string>> {
  const listening = new Set((await listeners()).map(({ path }) => path));
  const found = await Promise.all(
    sockets.map(async (socket) => {
      const paths = [socket, await realpath(socket).catch(() => socket)];
      return paths.some((path) => listening.has(path)) ? [socket] : [];
    }),
  );
  return new Set(found.flat());
}

async function listeningInodes(socket: string): Promise<Set<string>> {
  const paths = new Set([socket, await realpath(socket).catch(() => socket)]);
  return new Set((await listeners()).flatMap(({ inode, path }) => (paths.has(path) ? [inode] : [])));
}

/** /proc/net/unix: `Num RefCount Protocol Flags Type St Inode Path`; __SO_ACCEPTCON is 0x10000. */
async function listeners(): Promise<{ inode: string; path: string }[]> {
  const lines = (await readFile('/proc/net/unix', 'utf8')).split('\n');
  return lines.flatMap((line) => {
    const [, , , flags, , , inode, ...path] = line.split(/ +/);
    return flags === '00010000' && inode !== undefined ? [{ inode, path: path.join(' ') }] : [];
  });
}

/** Those that look like a QEMU first: a host may run thousands of others. */
async function processes(): Promise<number[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name)).map(Number);
  const names = await Promise.all(pids.map((pid) => readFile(`/proc/${pid}/comm`, 'utf8').catch(() => '')));
  const isQemu = (i: number) => /qemu|kvm/.test(names[i] ?? '');
  return [...pids.filter((_, i) => isQemu(i)), ...pids.filter((_, i) => !isQemu(i))];
}

async function holdsSocket(pid: number, inodes: ReadonlySet<string>): Promise<boolean> {
  const folder = `/proc/${pid}/fd`;
  const links = await readdir(folder).catch(() => []);
  for (const link of links) {
    const inode = /^socket:\[(\d+)\]$/.exec(await readlink(`${folder}/${link}`).catch(() => ''))?.[1];
    if (inode !== undefined && inodes.has(inode)) return true;
  }
  return false;
}

/** Of the file itself, also when it was replaced since, and whichever container's mounts it lies in. */
async function binaryOf(pid: number): Promise<string> {
  const { size, mtimeNs } = await stat(`/proc/${pid}/exe`, { bigint: true });
  return `${size} bytes of ${mtimeNs} ns`;
}

/** The fourth of the ids is the one that the kernel checks file access with (proc(5)). */
async function fileUserOf(pid: number): Promise<{ uid: number; gid: number } | null> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '');
  const uid = /^Uid:(?:\s+\d+){3}\s+(\d+)/m.exec(status)?.[1];
  const gid = /^Gid:(?:\s+\d+){3}\s+(\d+)/m.exec(status)?.[1];
  return uid === undefined || gid === undefined ? null : { uid: Number(uid), gid: Number(gid) };
}
