/**
 * Reads the header of a qcow2 file without opening it with QEMU. Whoever can write to the NAS can write a header
 * that names any file of this host as backing or data file, and qemu-img would follow it; so the header is read
 * here first, as untrusted input: bounded reads, no link followed, and everything refused that QEMU would take
 * differently from us. Format: docs/interop/qcow2.txt of QEMU.
 */
import { constants } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { errnoOf, messageOf, QmpvaultError } from '../base/errors.ts';

export interface Qcow2Header {
  readonly version: 2 | 3;
  readonly virtualSizeBytes: number;
  readonly clusterBytes: number;
  /** As written, relative to the file's folder; not checked in any way. */
  readonly backingLink: string | null;
  readonly backingFormat: string | null;
  /** Not closed properly: refcounts may be stale (lazy refcounts). */
  readonly dirty: boolean;
  /** QEMU itself found its metadata damaged and opens it read-only. */
  readonly corrupt: boolean;
  /** The guest's data lie in another file. */
  readonly externalData: boolean;
  readonly encrypted: boolean;
}

export const MAGIC = 0x514649fb;
const V2_LENGTH = 72;
export const V3_LENGTH = 104;
const CLUSTER_BITS = { min: 9, max: 21 };
export const BACKING_LINK_MAX_BYTES = 1023;
export const EXTENSION = { end: 0, backingFormat: 0xe2792aca, externalData: 0x44415441 };
/** Of opening or reading what is missing, a folder, a socket, a pipe; anything else is a failure to read. */
const NO_FILE = new Set(['ENOENT', 'ENOTDIR', 'EISDIR', 'ENXIO', 'ESPIPE']);
const INCOMPATIBLE = { dirty: 1n, corrupt: 2n, externalData: 4n, known: 0b11111n };

/**
 * The header of a file that someone else may have written. Reads its first cluster, at most 2 MiB.
 * @throws image-invalid for what is no sound qcow2 header, or no file; vault-unreadable when reading fails
 */
export async function readQcow2Header(path: string): Promise<Qcow2Header> {
  try {
    // Not blocking: opening a FIFO in the place of an image would otherwise wait for a writer.
    await using file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
    const start = await readStart(file, V3_LENGTH);
    return parseQcow2Header(await readStart(file, clusterBytesOf(start)));
  } catch (error) {
    if (error instanceof BadHeader) {
      throw new QmpvaultError('image-invalid', `${path} is no sound qcow2 image: ${error.message}`, {
        details: { path },
      });
    }
    const errno = errnoOf(error);
    const isNoFile = errno !== undefined && NO_FILE.has(errno);
    throw new QmpvaultError(
      isNoFile ? 'image-invalid' : 'vault-unreadable',
      `cannot read the header of ${path}: ${messageOf(error)}`,
      { details: { path }, cause: error },
    );
  }
}

/**
 * Pure. `bytes` is the first cluster of the file, or all of it if it is shorter.
 * @throws BadHeader
 */
export function parseQcow2Header(bytes: Buffer): Qcow2Header {
  const clusterBytes = clusterBytesOf(bytes);
  const header = bytes.subarray(0, clusterBytes);
  const version = header.readUInt32BE(4);
  if (version !== 2 && version !== 3) throw new BadHeader(`version ${version} is neither 2 nor 3`);
  if (version === 3 && header.length < V3_LENGTH) throw new BadHeader('it ends within its header');
  const length = version === 2 ? V2_LENGTH : header.readUInt32BE(100);
  if (length < (version === 2 ? V2_LENGTH : V3_LENGTH) || length > clusterBytes) {
    throw new BadHeader(`a header of ${length} bytes`);
  }
  const features = version === 2 ? 0n : header.readBigUInt64BE(72);
  if ((features & ~INCOMPATIBLE.known) !== 0n) throw new BadHeader('it needs features that nobody knows');
  const size = header.readBigUInt64BE(24);
  if (size > BigInt(Number.MAX_SAFE_INTEGER)) throw new BadHeader(`a virtual size of ${size} bytes`);

  const link = backingLinkAt(header);
  const extensions = readExtensions(header, length, link?.offset ?? header.length);
  return {
    version,
    virtualSizeBytes: Number(size),
    clusterBytes,
    backingLink: link?.text ?? null,
    backingFormat: extensions.get(EXTENSION.backingFormat)?.toString('latin1') ?? null,
    dirty: (features & INCOMPATIBLE.dirty) !== 0n,
    corrupt: (features & INCOMPATIBLE.corrupt) !== 0n,
    externalData: (features & INCOMPATIBLE.externalData) !== 0n || extensions.has(EXTENSION.externalData),
    encrypted: header.readUInt32BE(32) !== 0,
  };
}

/** What is wrong with a header; only readQcow2Header knows the file and makes it an image-invalid. */
export class BadHeader extends Error {
  override readonly name = 'BadHeader';
}

function clusterBytesOf(start: Buffer): number {
  if (start.length < 4 || start.readUInt32BE(0) !== MAGIC) throw new BadHeader('it does not begin as one');
  if (start.length < V2_LENGTH) throw new BadHeader('it ends within its header');
  const bits = start.readUInt32BE(20);
  if (bits < CLUSTER_BITS.min || bits > CLUSTER_BITS.max) throw new BadHeader(`clusters of 2^${bits} bytes`);
  return 2 ** bits;
}

function backingLinkAt(header: Buffer): { offset: number; text: string } | null {
  const offset = header.readBigUInt64BE(8);
  if (offset === 0n) return null;
  const length = header.readUInt32BE(16);
  if (length > BACKING_LINK_MAX_BYTES || offset + BigInt(length) > BigInt(header.length)) {
    throw new BadHeader('its backing file name lies outside its first cluster');
  }
  const bytes = header.subarray(Number(offset), Number(offset) + length);
  // QEMU would read it only up to the NUL: what we check and what it opens must be the same.
  if (bytes.includes(0)) throw new BadHeader('its backing file name holds a NUL');
  try {
    return {
      offset: Number(offset),
      text: new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes),
    };
  } catch {
    throw new BadHeader('its backing file name is no UTF-8');
  }
}

function readExtensions(header: Buffer, start: number, end: number): Map<number, Buffer> {
  const found = new Map<number, Buffer>();
  for (let at = start; at < end; ) {
    if (at + 8 > end) throw new BadHeader('it ends within its header extensions');
    const type = header.readUInt32BE(at);
    if (type === EXTENSION.end) break;
    const length = header.readUInt32BE(at + 4);
    if (length > end - at - 8) throw new BadHeader('a header extension reaches beyond its room');
    // The specification says that each type appears at most once; which one counts is QEMU's secret.
    if (found.has(type)) throw new BadHeader('a header extension appears twice');
    found.set(type, header.subarray(at + 8, at + 8 + length));
    at += 8 + Math.ceil(length / 8) * 8;
  }
  return found;
}

async function readStart(file: FileHandle, length: number): Promise<Buffer> {
  const buffer = Buffer.alloc(length);
  const { bytesRead } = await file.read(buffer, 0, length, 0);
  return buffer.subarray(0, bytesRead);
}
