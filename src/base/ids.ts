/** Branded names and the rules for names that come from outside and end up in a path. */
import { randomBytes } from 'node:crypto';
import { QmpvaultError } from './errors.ts';

declare const brand: unique symbol;
type Brand<T, B extends string> = T & { readonly [brand]: B };

export type VaultId = Brand<string, 'VaultId'>;
export type PointId = Brand<string, 'PointId'>;
export type RunId = Brand<string, 'RunId'>;
export type DiskName = Brand<string, 'DiskName'>;
export type VmName = Brand<string, 'VmName'>;
export type BitmapName = Brand<string, 'BitmapName'>;

/** Whatever we create inside a VM begins with this: nodes, jobs, exports. */
export const NODE_PREFIX = 'qv-';
const BITMAP_PREFIX = 'qmpvault-';

/** 32 hex digits. */
export function newVaultId(): VaultId {
  return randomBytes(16).toString('hex') as VaultId;
}

/** 8 hex digits: short, since node names have fewer than 32 characters and carry it. */
export function newRunId(): RunId {
  return randomBytes(4).toString('hex') as RunId;
}

/** `20261120T084112.123Z-5f3a`: sorts by time, and two in one millisecond still differ. */
export function newPointId(at: Date): PointId {
  const time = at.toISOString().replaceAll('-', '').replaceAll(':', '');
  return `${time}-${randomBytes(2).toString('hex')}` as PointId;
}

/**
 * `qmpvault-<vault id, 8>-<128 random bits>`. Never derived from a point's id or a caller's name: two hosts,
 * a retried name or a cloned VM must never meet under one bitmap name.
 */
export function newBitmapName(vault: VaultId): BitmapName {
  return `${BITMAP_PREFIX}${vault.slice(0, 8)}-${randomBytes(16).toString('hex')}` as BitmapName;
}

/** What a bitmap's name says of its owner; `null` for a foreign one. */
export function parseBitmapName(name: string): { vault: string; name: BitmapName } | null {
  const match = /^qmpvault-([0-9a-f]{8})-[0-9a-f]{32}$/.exec(name);
  return match?.[1] === undefined ? null : { vault: match[1], name: name as BitmapName };
}

/** Whether a bitmap was made for a vault, whatever VM, run or point it was made for. */
export function isBitmapOf(vault: VaultId, name: string): boolean {
  const parsed = parseBitmapName(name);
  return parsed !== null && vault.startsWith(parsed.vault);
}

const NAME_MAX_BYTES = 200;

/**
 * Checks a name that becomes a folder or a file in the vault. Allowed is what Linux, SMB and a shell without
 * quoting agree on; bounded, so that our prefixes and suffixes still fit into 255 bytes.
 * @throws name-invalid
 */
function checkName(what: string, name: string, maxBytes = NAME_MAX_BYTES): string {
  const problem =
    name === ''
      ? 'is empty'
      : Buffer.byteLength(name) > maxBytes
        ? `is longer than ${maxBytes} bytes`
        : name.startsWith('.')
          ? 'begins with a dot'
          : name.startsWith('-')
            ? 'begins with a dash'
            : // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is refused
              /[\u0000-\u001f\u007f/\\:*?"<>|]/.test(name)
              ? 'holds a character that cannot stand in a file name everywhere (/ \\ : * ? " < > | or a control character)'
              : /[. ]$/.test(name)
                ? 'ends with a dot or a space'
                : null;
  if (problem === null) return name;
  throw new QmpvaultError('name-invalid', `the ${what} ${JSON.stringify(name)} ${problem}`, {
    details: { what, name },
  });
}

/** @throws name-invalid */
export function vmName(name: string): VmName {
  if (name === 'vault.json') {
    throw new QmpvaultError(
      'name-invalid',
      "a VM cannot be called 'vault.json': the vault keeps a file there",
    );
  }
  return checkName('VM name', name) as VmName;
}

/** @throws name-invalid */
export function diskName(name: string): DiskName {
  return checkName('disk name', name) as DiskName;
}

/** The file of a disk in a point: its name, and a suffix. @throws name-invalid */
export function fileName(name: string): string {
  return checkName('file name', name, NAME_MAX_BYTES + '.qcow2'.length);
}

const VM_FOLDER_FILES = new Set(['vm.json', 'lease.json', 'journal.json', 'readers', 'holds']);

/** @throws name-invalid */
export function pointId(id: string): PointId {
  if (VM_FOLDER_FILES.has(id)) {
    throw new QmpvaultError('name-invalid', `a point cannot be called '${id}': the vault keeps that name`);
  }
  return checkName('point id', id) as PointId;
}

/** Linux cuts longer unix socket paths off, Node silently so: the bytes that fit, without the final NUL. */
const SOCKET_PATH_MAX_BYTES = 107;

/** @throws path-too-long */
export function socketPath(path: string): string {
  const bytes = Buffer.byteLength(path);
  if (bytes <= SOCKET_PATH_MAX_BYTES) return path;
  throw new QmpvaultError(
    'path-too-long',
    `the socket path ${path} has ${bytes} bytes; a unix socket takes ${SOCKET_PATH_MAX_BYTES}. Use a shorter folder.`,
    { details: { path, bytes } },
  );
}
