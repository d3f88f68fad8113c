/**
 * An empty qcow2 file, written by ourselves: `qemu-img create` is a process of 20 to 40 ms for five numbers. What it
 * looks like is checked where it counts: QEMU opens it, and `qemu-img check` sees it before it is published.
 * Format: docs/interop/qcow2.txt of QEMU; version 3, since in version 2 (compat 0.10) an image has no zero clusters, and
 * what the guest zeroed would show its parent's data again.
 */
import { open } from 'node:fs/promises';
import { QmpvaultError } from '../base/errors.ts';
import { BACKING_LINK_MAX_BYTES, EXTENSION, MAGIC, V3_LENGTH } from './qcow2-header.ts';
import type { Backing } from './qemu-img.ts';

export interface EmptyImage {
  readonly sizeBytes: number;
  /** A power of two. */
  readonly clusterBytes: number;
  /** It is not opened: whether the link may be followed is the caller's business. */
  readonly backing?: Backing;
  /** Offsets of the disk whose tables are made here: QEMU makes each one with two writes that it waits for. */
  readonly tablesFor?: readonly number[];
  /** Default: we. */
  readonly owner?: { readonly uid: number; readonly gid: number };
}

/** Clusters: the header, the table of the refcounts, their only block, the L1 table. */
const REFCOUNT_TABLE = 1;
const REFCOUNT_BLOCK = 2;
const L1_TABLE = 3;
const SECTOR_BYTES = 512;
const REFCOUNT_ORDER = 4;
/** In an entry of the L1 table: the L2 table is this image's alone. */
const COPIED = 1n << 63n;

/** Makes the file, which must not exist. @throws image-invalid; errors of the file system as they are */
export async function createEmptyQcow2(path: string, image: EmptyImage): Promise<void> {
  const { start, lengthBytes } = emptyQcow2(image);
  // Closed before QEMU opens it: not every network filesystem shows a write to one who reads past the page cache.
  const file = await open(path, 'wx', 0o644);
  try {
    for (let at = 0; at < start.length; ) at += (await file.write(start, at)).bytesWritten;
    await file.truncate(lengthBytes);
    const { owner } = image;
    if (owner !== undefined && owner.uid !== process.geteuid?.()) await file.chown(owner.uid, owner.gid);
  } finally {
    await file.close();
  }
}

/** Pure. @returns how the file begins, and its length: the rest is zeroes @throws image-invalid */
export function emptyQcow2({ sizeBytes, clusterBytes, backing, tablesFor = [] }: EmptyImage): {
  readonly start: Buffer;
  readonly lengthBytes: number;
} {
  const virtualBytes = Math.ceil(sizeBytes / SECTOR_BYTES) * SECTOR_BYTES;
  const bytesPerL2 = clusterBytes * (clusterBytes / 8);
  const l1Entries = Math.max(1, Math.ceil(virtualBytes / bytesPerL2));
  const l1End = L1_TABLE + Math.ceil((l1Entries * 8) / clusterBytes);
  const tables = [...new Set(tablesFor.map((offset) => Math.floor(offset / bytesPerL2)))];
  const clusters = l1End + tables.length;
  const start = Buffer.alloc((tables.length > 0 ? l1End : L1_TABLE) * clusterBytes);
  start.writeUInt32BE(MAGIC, 0);
  start.writeUInt32BE(3, 4);
  start.writeUInt32BE(Math.log2(clusterBytes), 20);
  start.writeBigUInt64BE(BigInt(virtualBytes), 24);
  start.writeUInt32BE(l1Entries, 36);
  start.writeBigUInt64BE(BigInt(L1_TABLE * clusterBytes), 40);
  start.writeBigUInt64BE(BigInt(REFCOUNT_TABLE * clusterBytes), 48);
  start.writeUInt32BE(1, 56);
  start.writeUInt32BE(REFCOUNT_ORDER, 96);
  start.writeUInt32BE(V3_LENGTH, 100);
  if (backing !== undefined) writeBacking(start.subarray(0, clusterBytes), backing);
  start.writeBigUInt64BE(BigInt(REFCOUNT_BLOCK * clusterBytes), REFCOUNT_TABLE * clusterBytes);
  if (clusters * 2 > clusterBytes) {
    throw new QmpvaultError('image-invalid', `an image of ${sizeBytes} bytes needs larger clusters`);
  }
  for (let nth = 0; nth < clusters; nth += 1) {
    start.writeUInt16BE(1, REFCOUNT_BLOCK * clusterBytes + 2 * nth);
  }
  for (const [nth, table] of tables.entries()) {
    const at = BigInt((l1End + nth) * clusterBytes);
    start.writeBigUInt64BE(at | COPIED, L1_TABLE * clusterBytes + 8 * table);
  }
  return { start, lengthBytes: clusters * clusterBytes };
}

/** The format as a header extension, and behind the end of the extensions (two zeroes) the link. */
function writeBacking(header: Buffer, { link, format }: Backing): void {
  const name = Buffer.from(link);
  if (name.length > BACKING_LINK_MAX_BYTES) {
    throw new QmpvaultError('image-invalid', `a backing file's name of ${name.length} bytes: ${link}`);
  }
  header.writeUInt32BE(EXTENSION.backingFormat, V3_LENGTH);
  header.writeUInt32BE(format.length, V3_LENGTH + 4);
  header.write(format, V3_LENGTH + 8, 'latin1');
  const at = V3_LENGTH + 8 + Math.ceil(format.length / 8) * 8 + 8;
  name.copy(header, at);
  header.writeBigUInt64BE(BigInt(at), 8);
  header.writeUInt32BE(name.length, 16);
}
