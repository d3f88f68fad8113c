/**
 * Persistent bitmaps of images that no VM has open, changed by qemu-img in openings of a few milliseconds: as long as
 * one lasts, a VM cannot start.
 *
 * Unlike the other tools these are not killed, neither with us nor when we are cancelled: whoever dies with an image
 * open for writing leaves all its bitmaps marked as in use, and what they told is lost.
 */
import { mkdtemp, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { execa } from 'execa';
import { bounded } from '../base/deadline.ts';
import { QmpvaultError } from '../base/errors.ts';
import type { QemuTools } from './tools.ts';

/** Far more than it takes; what it waits for is the disk of the image. */
const OPENING_MS = 30_000;

interface BitmapOf {
  /** A qcow2. */
  readonly path: string;
  readonly name: string;
}

/** Adds an empty bitmap that records from the image's next opening on. @throws vm-busy when the image is in use */
export async function addImageBitmap(
  tools: QemuTools,
  { path, name, granularityBytes }: BitmapOf & { granularityBytes: number },
): Promise<void> {
  await open(path, [
    tools.qemuImg,
    ...['bitmap', '--add', '-g', `${granularityBytes}`, '-f', 'qcow2', resolve(path), name],
  ]);
}

/** Adds to a bitmap what the one of another image holds. @throws vm-busy when the image is in use */
export async function mergeImageBitmap(
  tools: QemuTools,
  { path, name, from }: BitmapOf & { from: BitmapOf },
): Promise<void> {
  const source = ['-b', resolve(from.path), '-F', 'qcow2'];
  await open(path, [
    tools.qemuImg,
    ...['bitmap', '--merge', from.name, ...source, '-f', 'qcow2', resolve(path), name],
  ]);
}

/** Also one that is inconsistent. @throws vm-busy when the image is in use */
export async function removeImageBitmap(tools: QemuTools, { path, name }: BitmapOf): Promise<void> {
  await open(path, [tools.qemuImg, 'bitmap', '--remove', '-f', 'qcow2', resolve(path), name]);
}

/** @throws vm-busy when somebody has the image open, and would not share it with a writer */
export async function refuseInUse(
  tools: QemuTools,
  { path, format }: { path: string; format: string },
): Promise<void> {
  // Whoever reads a qcow2 asks that nobody writes, and of raw data does not; `qemu-img info` does not ask either.
  const mode = format === 'raw' ? [] : ['-r'];
  await open(path, [tools.qemuIo, ...mode, '-f', format, '-c', 'quit', resolve(path)]);
}

/** Makes a small image whose bitmap `name` has just these clusters set. @param pattern byte offsets of clusters */
export async function drawPatternImage(
  tools: QemuTools,
  {
    path,
    name,
    sizeBytes,
    granularityBytes,
    pattern,
  }: BitmapOf & { sizeBytes: number; granularityBytes: number; pattern: readonly number[] },
): Promise<void> {
  await open(path, [tools.qemuImg, 'create', '-q', '-f', 'qcow2', resolve(path), `${sizeBytes}`]);
  await addImageBitmap(tools, { path, name, granularityBytes });
  // A cluster's first sector is enough to set its bit.
  const writes = pattern.flatMap((offset) => ['-c', `write -q -z ${offset} 512`]);
  await open(path, [tools.qemuIo, '-f', 'qcow2', ...writes, resolve(path)]);
}

/**
 * Adds a bitmap that has just these clusters set: in a new image, the one of whatever that image is a copy of.
 * @param made when the image is there; the pattern is drawn meanwhile
 */
export async function seedImageBitmap(
  tools: QemuTools,
  bitmap: BitmapOf & { sizeBytes: number; granularityBytes: number; pattern: readonly number[] },
  made: Promise<void>,
): Promise<void> {
  const dir = await mkdtemp(join(tmpdir(), 'qmpvault-'));
  try {
    const from = { path: join(dir, 'pattern.qcow2'), name: 'pattern' };
    await drawPatternImage(tools, { ...bitmap, ...from });
    await made;
    await addImageBitmap(tools, bitmap);
    await mergeImageBitmap(tools, { ...bitmap, from });
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

/**
 * Changes whenever somebody writes to an image: the times and the size of a file; of a block device, the sectors that
 * were written to it (Documentation/block/stat.rst). For images that can keep no bitmap.
 */
export async function writeMark(path: string): Promise<string> {
  const { mtimeNs, ctimeNs, size, ino, rdev, mode } = await stat(path, { bigint: true });
  if ((mode & S_IFMT) !== S_IFBLK) return [ino, size, mtimeNs, ctimeNs].join(' ');
  const [major, minor] = [(rdev >> 8n) & 0xfffn, (rdev & 0xffn) | ((rdev >> 12n) & ~0xffn)];
  const fields = (await readFile(`/sys/dev/block/${major}:${minor}/stat`, 'latin1')).trim().split(/\s+/);
  return [fields[4], fields[6]].join(' ');
}

const S_IFMT = 0o170000n;
const S_IFBLK = 0o060000n;

async function open(path: string, command: readonly string[]): Promise<void> {
  const [program = '', ...args] = command;
  const running = execa(program, args, {
    detached: true,
    reject: false,
    stdin: 'ignore',
    maxBuffer: 64 * 1024,
    env: { LC_ALL: 'C' },
  });
  const what = `a short opening of ${path}`;
  const { exitCode, stderr, shortMessage } = await bounded(running, {
    timeoutMs: OPENING_MS,
    what,
    code: 'image-tool-failed',
  });
  if (exitCode === 0) return;
  const reason = stderr.trim() || shortMessage || 'no reason given';
  // QEMU has no other sign of it than the text (file-posix.c, raw_check_lock_bytes).
  if (/Failed to get .*lock/.test(reason)) {
    throw new QmpvaultError(
      'vm-busy',
      `${path} is in use, so a VM seems to run: name its QMP socket with --qmp, or wait until it has ended`,
      { details: { path, reason } },
    );
  }
  throw new QmpvaultError('image-tool-failed', `${what} failed: ${reason}`, {
    details: { path, args, reason },
  });
}
