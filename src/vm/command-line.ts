/** What the command line of a running QEMU says of its VM: its name, and the sockets at which it can be spoken to. */
import { readdir, readFile, readlink } from 'node:fs/promises';
import { resolve } from 'node:path';

export interface RunningVm {
  readonly pid: number;
  readonly name: string | null;
  /** Sockets of QMP monitors, in order; not those that libvirt keeps for itself, each serves one client. */
  readonly qmp: readonly string[];
  /** That of the guest agent; null where it has none that others may use. */
  readonly agent: string | null;
}

/** All VMs of this host whose command line can be read. */
export async function runningVms(): Promise<RunningVm[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
  const found = await Promise.all(pids.map((pid) => readVm(Number(pid)).catch(() => null)));
  return found.filter((vm) => vm !== null);
}

async function readVm(pid: number): Promise<RunningVm | null> {
  const words = (await readFile(`/proc/${pid}/cmdline`, 'utf8')).split('\0');
  // Not by the name of the process: that of its first thread, which may have been named for the guest. A loader, with
  // options of its own, may stand before the program.
  const program = words.findIndex((word) => QEMU.test(word));
  if (program < 0 || program > LOADER_WORDS_MAX) return null;
  const vm = parseCommandLine(words.slice(program + 1));
  const directory = await readlink(`/proc/${pid}/cwd`).catch(() => '/');
  const absolute = (path: string) => resolve(directory, path);
  return {
    pid,
    name: vm.name,
    qmp: vm.qmp.map(absolute),
    agent: vm.agent === null ? null : absolute(vm.agent),
  };
}

const QEMU = /(^|\/)(qemu-system-[^/]+|qemu-kvm|kvm)$/;
const LOADER_WORDS_MAX = 6;

const AGENT_PORT = 'org.qemu.guest_agent.0';
/** libvirt connects to these itself, and stays connected. */
const LIBVIRTS = /^\/(var\/lib|run)\/libvirt\//;

/** @param args without the program's name */
export function parseCommandLine(args: readonly string[]): Omit<RunningVm, 'pid'> {
  const chardevs = new Map<string, string>();
  const monitors: string[] = [];
  const qmp: string[] = [];
  let name: string | null = null;
  let agent: string | null = null;
  for (const [i, arg] of args.entries()) {
    const value = args[i + 1] ?? '';
    const option = arg.replace(/^--?/, '');
    if (option === arg) continue;
    if (option === 'name') name = nameOf(value);
    const given = keysOf(value);
    if (option === 'qmp' || option === 'qmp-pretty') {
      const path = /^unix:(.+)/s.exec(given[''] ?? '')?.[1];
      if (path !== undefined) qmp.push(path);
      else if (value.startsWith('chardev:')) monitors.push(value.slice('chardev:'.length));
    }
    if (option === 'chardev' && given['path'] && given['id']) chardevs.set(given['id'], given['path']);
    // A monitor's `mode` is `readline`, for people, unless it says otherwise.
    if (option === 'mon' && given['mode'] === 'control' && given['chardev']) monitors.push(given['chardev']);
    if (option === 'device' && given['name'] === AGENT_PORT) agent = given['chardev'] ?? null;
  }
  const usable = (path: string | undefined) => (path === undefined || LIBVIRTS.test(path) ? [] : [path]);
  return {
    name,
    // One that libvirt opened itself is a file descriptor on the command line, and has no path.
    qmp: [...qmp, ...monitors.flatMap((id) => chardevs.get(id) ?? [])].flatMap(usable),
    agent: agent === null ? null : (usable(chardevs.get(agent))[0] ?? null),
  };
}

/** `-name guest=i-2-3-VM,debug-threads=on`, or just `-name web1`. */
function nameOf(value: string): string | null {
  const { guest, '': plain } = keysOf(value);
  return guest ?? plain ?? null;
}

/** `socket,id=x,path=/a,,b` as QEMU reads it, a doubled comma being one; also its JSON form. What has no key is under ''. */
function keysOf(value: string): Record<string, string> {
  if (value.startsWith('{')) {
    try {
      const object: unknown = JSON.parse(value);
      return Object.fromEntries(Object.entries(object ?? {}).map(([key, it]) => [key, String(it)]));
    } catch {
      return {};
    }
  }
  const keys: Record<string, string> = {};
  for (const part of value.split(/(?<!,),(?!,)|(?<=,,),(?!,)/)) {
    const text = part.replaceAll(',,', ',');
    const at = text.indexOf('=');
    if (at < 0) keys[''] ??= text;
    else keys[text.slice(0, at)] = text.slice(at + 1);
  }
  return keys;
}
