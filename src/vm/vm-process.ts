/**
 * Which process is behind a QMP socket, and as which user it works. Node cannot ask for a peer's credentials, so
 * /proc is read: the listening socket's inode, then the process that has it open. On a host of many VMs these are thousands
 * of descriptors, in memory, which nothing makes wait: each is asked at once, since a way through libuv's threads takes ten times
 * as long as the answer.
 */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { readFile, readlink, realpath, stat } from 'node:fs/promises';

export interface VmProcess {
  /** Null where /proc does not show it (another user's process). */
  readonly pid: number | null;
  readonly uid: number;
  readonly gid: number;
  /** Its working directory, to which the relative names of images belong; null where that cannot be seen. */
  readonly directory: string | null;
  /** Tells the QEMU that it runs from others, also of the same version; null where that cannot be seen, as behind a proxy. */
  readonly binary: string | null;
}

/** The user that opens and creates files for the VM; where its process cannot be seen, the socket file's owner. */
export async function vmProcessOf(socket: string): Promise<VmProcess> {
  const inodes = await listeningInodes(socket);
  for (const pid of inodes.size === 0 ? [] : processes()) {
    if (!holdsSocket(pid, inodes)) continue;
    const ids = await fileUserOf(pid);
    if (ids === null) continue;
    const [directory, binary] = await Promise.all([
      readlink(`/proc/${pid}/cwd`).catch(() => null),
      isQemu(pid) ? binaryOf(pid).catch(() => null) : null,
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
function processes(): number[] {
  const pids = readdirSync('/proc').flatMap((name) => (/^\d+$/.test(name) ? [Number(name)] : []));
  const [qemus, others] = [[] as number[], [] as number[]];
  for (const pid of pids) (isQemu(pid) ? qemus : others).push(pid);
  return [...qemus, ...others];
}

function isQemu(pid: number): boolean {
  return /qemu|kvm/.test(unlessGone(() => readFileSync(`/proc/${pid}/comm`, 'utf8')) ?? '');
}

function holdsSocket(pid: number, inodes: ReadonlySet<string>): boolean {
  const folder = `/proc/${pid}/fd`;
  return (unlessGone(() => readdirSync(folder)) ?? []).some((name) => {
    const link = unlessGone(() => readlinkSync(`${folder}/${name}`)) ?? '';
    const inode = /^socket:\[(\d+)\]$/.exec(link)?.[1];
    return inode !== undefined && inodes.has(inode);
  });
}

/** Null of a process that has ended, and of another user's. */
function unlessGone<T>(look: () => T): T | null {
  try {
    return look();
  } catch {
    return null;
  }
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
