/**
 * The arguments, as nasbackup.sh takes them from CloudStack's agent: each option takes the next argument, whatever
 * it looks like, and the last one of a kind counts.
 */
import { QmpvaultError } from '../base/errors.ts';
import { type PointId, pointId, type VmName, vmName } from '../base/ids.ts';
import { GiB, MiB } from '../base/units.ts';
import type { Share } from '../rpc/share.ts';

export type Operation = 'backup' | 'delete' | 'stats' | 'rebase';
/** `auto`: the caller leaves it to us. */
export type Mode = 'full' | 'incremental' | 'legacy-full' | 'auto';

/** `<vm>/<point>` below the repository. */
export interface BackupPath {
  readonly vm: VmName;
  readonly point: PointId;
}

export interface BackupCall {
  readonly operation: 'backup';
  readonly repository: Share;
  readonly path: BackupPath;
  /** The instance's name, by which its QEMU is found. */
  readonly instance: string;
  readonly quiesce: boolean;
  readonly quiesceTimeoutMs: number | undefined;
  /** The images of a stopped VM in the order of its devices; empty: the VM runs, or is known from before. */
  readonly images: readonly string[];
  readonly mode: Mode;
  readonly fullEvery: number | undefined;
  readonly bitmapNew: string | undefined;
  readonly bitmapParent: string | undefined;
  /** Files of the point that it is to stand on, below the repository. */
  readonly parentPaths: readonly string[];
  /** Bytes per second, over all disks. */
  readonly bandwidth: number | undefined;
}

export interface DeleteCall {
  readonly operation: 'delete';
  readonly repository: Share;
  readonly path: BackupPath;
}

export interface StatsCall {
  readonly operation: 'stats';
  readonly repository: Share;
}

export interface RebaseCall {
  readonly operation: 'rebase';
  readonly repository: Share;
  readonly target: BackupPath & { readonly file: string };
  readonly backing: BackupPath & { readonly file: string };
}

export type Call = BackupCall | DeleteCall | StatsCall | RebaseCall;

/** Words that are no call: they are answered with the usage. */
export class NotUnderstood extends Error {}

const NAMES = {
  '-o': 'operation',
  '--operation': 'operation',
  '-v': 'vm',
  '--vm': 'vm',
  '-t': 'type',
  '--type': 'type',
  '-s': 'storage',
  '--storage': 'storage',
  '-m': 'mount',
  '--mount': 'mount',
  '-p': 'path',
  '--path': 'path',
  '-q': 'quiesce',
  '--quiesce': 'quiesce',
  '-d': 'disks',
  '--diskpaths': 'disks',
  '-M': 'mode',
  '--mode': 'mode',
  '-b': 'bandwidth',
  '--bandwidth': 'bandwidth',
  '-e': 'encrypt',
  '--encrypt': 'encrypt',
  '-w': 'mountTimeout',
  '--mount-timeout': 'mountTimeout',
  '--quiesce-timeout': 'quiesceTimeout',
  '--full-every': 'fullEvery',
  '--bitmap-new': 'bitmapNew',
  '--bitmap-parent': 'bitmapParent',
  '--parent-path': 'parentPaths',
  '--parent-paths': 'parentPaths',
  '--rebase-target': 'rebaseTarget',
  '--rebase-new-backing': 'rebaseNewBacking',
} as const;

type Given = { -readonly [K in (typeof NAMES)[keyof typeof NAMES]]?: string };

/** Options without a value. What is written is always checked; that it is never compressed costs space only. */
const FLAGS = new Set(['-c', '--compress', '--verify']);

const MODES: readonly string[] = ['full', 'incremental', 'legacy-full', 'auto'] satisfies Mode[];
const MOUNT_TIMEOUT_S = 60;

/**
 * @param fallback the mode of a call that names none
 * @throws NotUnderstood for an unknown option; usage, name-invalid for a call that makes no sense
 */
export function parseCall(argv: readonly string[], fallback: Mode = 'legacy-full'): Call {
  const given = read(argv);
  if (given.encrypt) {
    throw usage('encryption is not offered: nothing was stored. Encrypt the filesystem of the NAS instead');
  }
  switch (given.operation) {
    case 'backup':
      return backupCall(given, fallback);
    case 'delete':
      return { operation: 'delete', repository: repositoryOf(given), path: backupPath(given.path ?? '') };
    case 'stats':
      return { operation: 'stats', repository: repositoryOf(given) };
    case 'rebase':
      return rebaseCall(given);
    default:
      throw new NotUnderstood(`Unknown operation: ${given.operation ?? ''}`);
  }
}

function read(argv: readonly string[]): Given {
  const given: Given = {};
  const left = argv.values();
  for (const option of left) {
    if (FLAGS.has(option)) continue;
    if (option === '-h' || option === '--help') throw new NotUnderstood('');
    if (!Object.hasOwn(NAMES, option)) throw new NotUnderstood(`Invalid option: ${option}`);
    const { value, done } = left.next();
    if (done) throw usage(`${option} lacks its value`);
    given[NAMES[option as keyof typeof NAMES]] = value;
  }
  return given;
}

function backupCall(given: Given, fallback: Mode): BackupCall {
  const { vm = '', quiesce = '', disks = '', mode = fallback, bitmapNew, bitmapParent } = given;
  const parentPaths = listOf(given.parentPaths ?? '');
  if (vm === '') throw usage('-v, the name of the VM, is missing');
  if (!MODES.includes(mode)) throw usage(`Unknown mode: ${mode}`);
  if (mode === 'incremental' && !(bitmapNew && bitmapParent && parentPaths.length > 0)) {
    throw usage('incremental mode requires --bitmap-new, --bitmap-parent and --parent-paths');
  }
  return {
    operation: 'backup',
    repository: repositoryOf(given),
    path: backupPath(given.path ?? ''),
    instance: vm,
    quiesce: quiesce === 'true',
    quiesceTimeoutMs: seconds('--quiesce-timeout', given.quiesceTimeout),
    images: listOf(disks),
    mode: mode as Mode,
    fullEvery: count('--full-every', given.fullEvery),
    bitmapNew: bitmapNew || undefined,
    bitmapParent: bitmapParent || undefined,
    parentPaths,
    bandwidth: bandwidth(given.bandwidth),
  };
}

function rebaseCall(given: Given): RebaseCall {
  const { rebaseTarget, rebaseNewBacking } = given;
  if (!rebaseTarget || !rebaseNewBacking) {
    throw usage('rebase requires --rebase-target and --rebase-new-backing');
  }
  const [target, backing] = [pointFile(rebaseTarget), pointFile(rebaseNewBacking)];
  if (target.vm !== backing.vm) throw usage(`${rebaseTarget} and ${rebaseNewBacking} are of two VMs`);
  return { operation: 'rebase', repository: repositoryOf(given), target, backing };
}

function repositoryOf({ type = '', storage = '', mount = '', mountTimeout }: Given): Share {
  if (!/^[a-z][a-z0-9._-]*$/.test(type)) throw usage(`-t '${type}': it takes nfs, cifs, ceph or path`);
  // mount(8) would take it for an option.
  if (storage === '' || storage.startsWith('-')) throw usage(`-s '${storage}' is no address`);
  if (type === 'path' && !storage.startsWith('/')) throw usage(`-s '${storage}' is no absolute path`);
  return {
    type,
    address: storage,
    // Byte range locks of a lost client would keep the next one out of the images.
    options:
      type === 'cifs' && !/(^|,)nobrl(,|$)/.test(mount) ? [mount, 'nobrl'].filter(Boolean).join(',') : mount,
    mountTimeoutMs: seconds('--mount-timeout', mountTimeout) ?? MOUNT_TIMEOUT_S * 1000,
  };
}

/** The original would have removed the whole repository for an empty path. @throws usage, name-invalid */
function backupPath(path: string): BackupPath {
  const [vm, point, ...more] = partsOf('-p', path);
  if (vm === undefined || point === undefined || more.length > 0) {
    throw usage(`-p '${path}' is no path of a backup: it takes VM/TIMESTAMP`);
  }
  return { vm: vmName(vm), point: pointId(point) };
}

/** `<vm>/<point>/<file>` below the repository. @throws usage, name-invalid */
export function pointFile(path: string): BackupPath & { readonly file: string } {
  const [vm, point, file, ...more] = partsOf('the path of a file', path);
  if (vm === undefined || point === undefined || file === undefined || more.length > 0) {
    throw usage(`'${path}' is no file of a backup: it takes VM/TIMESTAMP/FILE`);
  }
  return { vm: vmName(vm), point: pointId(point), file };
}

function partsOf(what: string, path: string): string[] {
  if (path === '') throw usage(`${what} is empty`);
  if (path.startsWith('/')) throw usage(`${what} '${path}' is absolute: it takes one below the repository`);
  const parts = path.split('/').filter((part) => part !== '' && part !== '.');
  if (parts.includes('..')) throw usage(`${what} '${path}' leads out of the repository`);
  return parts;
}

function listOf(text: string): string[] {
  return text.split(',').filter((part) => part !== '');
}

function seconds(option: string, text: string | undefined): number | undefined {
  const value = count(option, text);
  return value === undefined ? undefined : value * 1000;
}

function count(option: string, text: string | undefined): number | undefined {
  if (text === undefined || text === '') return undefined;
  if (/^\d{1,6}$/.test(text)) return Number(text);
  throw usage(`${option} '${text}' is no whole number`);
}

/** In MiB/s; the original's limit was one of each disk, this one is of all together. */
function bandwidth(text: string | undefined): number | undefined {
  const value = count('--bandwidth', text);
  return value === undefined || value === 0 ? undefined : Math.min(value * MiB, 1024 * GiB);
}

function usage(message: string): QmpvaultError {
  return new QmpvaultError('usage', message);
}

export const USAGE = `
Usage: nasbackup -o backup -v VM -t TYPE -s ADDRESS -m OPTIONS -p VM/TIMESTAMP -q true|false -d DISKS
                 [-M full|incremental|legacy-full|auto] [--bitmap-new NAME] [--bitmap-parent NAME]
                 [--parent-paths P1,P2,...] [-b MIB_PER_S] [--full-every N]
       nasbackup -o delete -t TYPE -s ADDRESS -m OPTIONS -p VM/TIMESTAMP
       nasbackup -o stats  -t TYPE -s ADDRESS -m OPTIONS
       nasbackup -o rebase -t TYPE -s ADDRESS -m OPTIONS --rebase-target REL --rebase-new-backing REL

TYPE is nfs, cifs, ceph or any other that mount(8) knows; or path, and ADDRESS is then a folder.
[--mount-timeout SECONDS] [--quiesce-timeout SECONDS]
`;
