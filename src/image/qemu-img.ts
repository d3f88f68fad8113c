/**
 * qemu-img, one function per use. Every call runs in a session of its own, so that a terminal's Ctrl-C reaches
 * only us and we decide in which order things end; its output is bounded; and when it is killed nobody waits for
 * it longer than a moment, since a process that hangs in an NFS mount does not die before the mount answers.
 * It dies with us (setpriv of util-linux): whoever finishes what a killed engine began must not find its qemu-img
 * still writing to the same file, which on an SMB mount without locks QEMU would not notice.
 *
 * Paths are made absolute, and by that can be no option and no protocol: QEMU takes `nbd:x` and `json:{...}` for
 * one only if no slash comes before the colon.
 */
import { resolve } from 'node:path';
import { execa } from 'execa';
import { bounded, throwIfAborted } from '../base/deadline.ts';
import { QmpvaultError } from '../base/errors.ts';
import { readQcow2Header } from './qcow2-header.ts';
import { watchCpuTime } from './stall.ts';
import type { QemuTools } from './tools.ts';

export interface CallOptions {
  readonly signal?: AbortSignal | undefined;
  readonly timeoutMs?: number | undefined;
}

export interface ProgressOptions extends CallOptions {
  /** From 0 to 1, about a hundred times. */
  readonly onProgress?: ((fraction: number) => void) | undefined;
  /** One that uses no CPU time for so long is killed: it waits for a NAS that hangs. */
  readonly stallMs?: number | undefined;
}

/** A backing file as it is written into an image: the link is relative to the image's folder. */
export interface Backing {
  readonly link: string;
  readonly format: string;
}

/**
 * Makes an empty image; an existing file is overwritten. The backing file is not opened: that would read a whole
 * chain of headers, and whether the link may be followed is the caller's business.
 */
export async function createImage(
  tools: QemuTools,
  image: { path: string; format: string; sizeBytes: number; clusterBytes?: number; backing?: Backing },
  options: CallOptions = {},
): Promise<void> {
  const { path, format, sizeBytes, clusterBytes, backing } = image;
  const args = ['create', '-q', '-u', '-f', format];
  // On 0.10 an image has no zero clusters: what the guest zeroed would show its parent's data again.
  if (format === 'qcow2') args.push('-o', 'compat=1.1');
  if (clusterBytes !== undefined) args.push('-o', `cluster_size=${clusterBytes}`);
  if (backing !== undefined) args.push('-b', backing.link, '-F', backing.format);
  await qemuImg(tools, [...args, resolve(path), String(sizeBytes)], options);
}

export interface ImageBitmap {
  readonly name: string;
  readonly granularityBytes: number;
  /** `auto`: recording when opened; `in-use`: not closed properly, its contents are lost. */
  readonly flags: readonly string[];
}

export interface ImageInfo {
  readonly format: string;
  readonly virtualSizeBytes: number;
  readonly allocatedBytes: number;
  readonly backingLink: string | null;
  readonly backingFormat: string | null;
  readonly clusterBytes: number | null;
  readonly compat: string | null;
  readonly bitmaps: readonly ImageBitmap[];
}

/** The parts of `qemu-img info --output=json` (ImageInfo in qapi/block-core.json) that we read. */
interface InfoJson {
  format: string;
  'virtual-size': number;
  'actual-size'?: number;
  'backing-filename'?: string;
  'backing-filename-format'?: string;
  'cluster-size'?: number;
  'format-specific'?: {
    data?: { compat?: string; bitmaps?: { name: string; granularity: number; flags: string[] }[] };
  };
}

/**
 * What QEMU says of an image, which must not be open for writing. It opens no backing file, but a qcow2's
 * external data file: look at an untrusted file with readQcow2Header first. Without `format` it is guessed.
 */
export async function imageInfo(
  tools: QemuTools,
  { path, format }: { path: string; format?: string },
  options: CallOptions = {},
): Promise<ImageInfo> {
  const known = format === undefined ? [] : ['-f', format];
  const { stdout } = await qemuImg(tools, ['info', '--output=json', ...known, resolve(path)], options);
  const info = JSON.parse(stdout) as InfoJson;
  const specific = info['format-specific']?.data;
  return {
    format: info.format,
    virtualSizeBytes: info['virtual-size'],
    allocatedBytes: info['actual-size'] ?? 0,
    backingLink: info['backing-filename'] ?? null,
    backingFormat: info['backing-filename-format'] ?? null,
    clusterBytes: info['cluster-size'] ?? null,
    compat: specific?.compat ?? null,
    bitmaps: (specific?.bitmaps ?? []).map(({ name, granularity, flags }) => ({
      name,
      granularityBytes: granularity,
      flags,
    })),
  };
}

/**
 * Checks the metadata of one qcow2 file, and opens no other. Leaked clusters cost space, not data.
 * @throws image-invalid when it is damaged
 */
export async function checkImage(
  tools: QemuTools,
  { path }: { path: string },
  options: CallOptions = {},
): Promise<{ leaks: number }> {
  const header = await readQcow2Header(path);
  if (header.corrupt || header.externalData) {
    const what = header.corrupt ? 'is marked as corrupt' : 'keeps its data in another file';
    throw new QmpvaultError('image-invalid', `${path} ${what}`, { details: { path } });
  }
  // `qemu-img check FILE` opens the backing chain too, and fails where that is away.
  const file = { driver: 'file', filename: resolve(path) };
  const image = `json:${JSON.stringify({ driver: 'qcow2', backing: null, file })}`;
  const { exitCode, stdout } = await qemuImg(tools, ['check', '--output=json', image], options, [0, 2, 3]);
  const found = JSON.parse(stdout) as { leaks?: number; corruptions?: number };
  if (exitCode !== 2) return { leaks: found.leaks ?? 0 };
  throw new QmpvaultError('image-invalid', `${path} is damaged: ${found.corruptions} corruptions`, {
    details: { path, corruptions: found.corruptions },
  });
}

/**
 * Copies what the guest would read, through the whole backing chain, and leaves zeroes unallocated. Nothing
 * is flushed: that is for a descriptor of the caller's own, open on the target since before. QEMU would flush the file for each
 * new table of it, and wait for all that was written (m: 1 GiB takes 1.2 times as long).
 * `targetExists`: written in place (a block device, a prepared file), else made anew.
 */
export async function convertImage(
  tools: QemuTools,
  image: {
    source: string;
    sourceFormat: string;
    target: string;
    targetFormat: string;
    targetExists?: boolean;
  },
  options: ProgressOptions = {},
): Promise<void> {
  const { source, sourceFormat, target, targetFormat, targetExists = false } = image;
  const args = ['convert', '-p', '-f', sourceFormat, '-O', targetFormat];
  if (targetExists) args.push('-n');
  await qemuImg(tools, [...args, resolve(source), resolve(target)], options);
}

/** Reads all that a guest would read, through the whole backing chain, and keeps nothing of it. */
export async function readImage(
  tools: QemuTools,
  { path, format, sizeBytes }: { path: string; format: string; sizeBytes: number },
  options: ProgressOptions = {},
): Promise<void> {
  const nowhere = `driver=null-co,size=${sizeBytes}`;
  await qemuImg(
    tools,
    ['convert', '-p', '-n', '-f', format, '--target-image-opts', resolve(path), nowhere],
    options,
  );
}

/**
 * How large a new qcow2 with the same contents would be, read from the metadata of the whole backing chain. Zeroes
 * that are stored as data count as data; so a sparse copy in any format takes at most this.
 */
export async function measureImage(
  tools: QemuTools,
  { path, format }: { path: string; format: string },
  options: CallOptions = {},
): Promise<{ requiredBytes: number }> {
  const args = ['measure', '--output=json', '-f', format, '-O', 'qcow2', resolve(path)];
  const { stdout } = await qemuImg(tools, args, options);
  return { requiredBytes: (JSON.parse(stdout) as { required: number }).required };
}

export interface Extent {
  readonly startBytes: number;
  readonly lengthBytes: number;
  /** Which image of the chain holds it, 0 for the image itself; where none does, the last one. */
  readonly depth: number;
  /** Some image of the chain holds it, if only as a zero. QEMU < 6.1 tells that of data alone. */
  readonly isPresent: boolean;
  readonly isZero: boolean;
}

/** The parts of `qemu-img map --output=json` (MapEntry in qapi/block-core.json) that we read. */
interface ExtentJson {
  start: number;
  length: number;
  depth: number;
  present?: boolean;
  zero: boolean;
  data: boolean;
}

/** Where the contents of a chain lie. @param image a block node as in blockdev-add, all its backing files named */
export async function mapImage(
  tools: QemuTools,
  image: object,
  options: CallOptions = {},
): Promise<Extent[]> {
  const args = ['map', '--output=json', `json:${JSON.stringify(image)}`];
  const { stdout } = await qemuImg(tools, args, { ...options, outputMaxCharacters: MAP_MAX_CHARACTERS });
  return (JSON.parse(stdout) as ExtentJson[]).map(({ start, length, depth, present, zero, data }) => ({
    startBytes: start,
    lengthBytes: length,
    depth,
    isPresent: present ?? data,
    isZero: zero,
  }));
}

/** Whether a guest would read the same bytes from both; a longer one must hold zeroes at its end. */
export async function compare(
  tools: QemuTools,
  { a, aFormat, b, bFormat }: { a: string; aFormat: string; b: string; bFormat: string },
  options: CallOptions = {},
): Promise<boolean> {
  const args = ['compare', '-q', '-f', aFormat, '-F', bFormat, resolve(a), resolve(b)];
  const { exitCode } = await qemuImg(tools, args, options, [0, 1]);
  return exitCode === 0;
}

/**
 * Puts a qcow2 onto another backing file, or onto none. What a guest reads stays the same: contents are compared
 * and what differs is copied into the image. With `headerOnly` just the link changes, and no file is opened but
 * the image itself.
 */
export async function rebaseImage(
  tools: QemuTools,
  { path, backing, headerOnly = false }: { path: string; backing: Backing | null; headerOnly?: boolean },
  options: ProgressOptions = {},
): Promise<void> {
  const args = ['rebase', '-p', '-f', 'qcow2', '-b', backing?.link ?? ''];
  if (backing !== null) args.push('-F', backing.format);
  if (headerOnly) args.push('-u');
  await qemuImg(tools, [...args, resolve(path)], options);
}

/** Writes what a qcow2 holds into its backing file, and leaves the image itself as it is: it may be read. */
export async function commitImage(
  tools: QemuTools,
  { path }: { path: string },
  options: ProgressOptions = {},
): Promise<void> {
  await qemuImg(tools, ['commit', '-p', '-d', '-f', 'qcow2', resolve(path)], options);
}

/** qcow2_inactivate() and qcow2_close() of block/qcow2.c. */
export const UNWRITTEN = /^.*(?:Failed to flush|Lost persistent).*$/m;

const OUTPUT_MAX_CHARACTERS = 4 * 1024 ** 2;
/** About 120 for each extent: two million of them. */
const MAP_MAX_CHARACTERS = 256 * 1024 ** 2;
/** How long a killed qemu-img may take to go before it is left behind. */
const DEATH_MS = 1_000;

/** @throws cancelled, image-tool-failed */
async function qemuImg(
  tools: QemuTools,
  args: readonly string[],
  {
    signal,
    timeoutMs,
    onProgress,
    stallMs,
    outputMaxCharacters = OUTPUT_MAX_CHARACTERS,
  }: ProgressOptions & { readonly outputMaxCharacters?: number },
  goodExitCodes: readonly number[] = [0],
): Promise<{ exitCode: number; stdout: string }> {
  throwIfAborted(signal);
  const process = execa('setpriv', ['--pdeathsig', 'KILL', tools.qemuImg, ...args], {
    detached: true,
    reject: false,
    stdin: 'ignore',
    maxBuffer: outputMaxCharacters,
    env: { LC_ALL: 'C' },
  });
  if (onProgress !== undefined) {
    // `    (12.34/100%)\r`
    process.stdout.on('data', (chunk: Buffer) => {
      const percent = /\((\d+\.\d+)\/100%\)\s*$/.exec(chunk.toString('latin1'))?.[1];
      if (percent !== undefined) onProgress(Number(percent) / 100);
    });
  }
  const what = `qemu-img ${args[0]} of ${args.at(-1)}`;
  const ended = new AbortController();
  let result: Awaited<typeof process>;
  try {
    const stalled = neverUnless(process.pid, stallMs, what, ended.signal);
    const first = Promise.race([process, stalled]);
    result = await bounded(first, { signal, timeoutMs, what, code: 'image-tool-failed' });
  } catch (error) {
    process.kill('SIGKILL');
    await bounded(process, { timeoutMs: DEATH_MS, what }).catch(() => {
      process.unref();
      process.stdout.destroy();
      process.stderr.destroy();
    });
    throw error;
  } finally {
    ended.abort();
  }
  const { exitCode, stdout } = result;
  // What qcow2 cannot write when it closes it only prints, and the exit code stays good (m: rebase, 7.2).
  const unwritten = UNWRITTEN.exec(result.stderr)?.[0];
  const isGood = exitCode !== undefined && goodExitCodes.includes(exitCode);
  if (isGood && unwritten === undefined) return { exitCode, stdout };
  const reason = result.stderr.trim() || result.shortMessage || 'no reason given';
  throw new QmpvaultError('image-tool-failed', `${what} failed: ${reason}`, {
    details: { args, exitCode: exitCode ?? null, signal: result.signal ?? null, stderr: result.stderr },
    cause: systemError(reason),
  });
}

/** Rejects when the process stalls; else it stays pending. */
async function neverUnless(
  pid: number | undefined,
  stallMs: number | undefined,
  what: string,
  ended: AbortSignal,
): Promise<never> {
  if (pid !== undefined && stallMs !== undefined) await watchCpuTime(pid, { stallMs, what, ended });
  return new Promise(() => {});
}

const FULL = [
  ['No space left on device', 'ENOSPC'],
  ['Disk quota exceeded', 'EDQUOT'],
] as const;

/** QEMU's tools have no errno in their exit codes, only strerror(3)'s text; callers tell a full disk from the rest by it. */
export function systemError(reason: string): Error | undefined {
  const code = FULL.find(([text]) => reason.includes(text))?.[1];
  return code && Object.assign(new Error(reason), { code });
}
