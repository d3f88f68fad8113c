/**
 * Where an NBD export holds data: the part of the NBD protocol (doc/proto.md of NetworkBlockDevice) that asks for
 * `base:allocation`, and no more.
 *
 * Not by `qemu-img map`: from 8.2 on it asks for all of an export in one request, and a VM answers for a snapshot-access
 * node in time that grows with the square of the size, without letting its guest run meanwhile (m: 0.4 s for 512 GiB,
 * 7 s for 2 TiB). Here it is asked in pieces.
 */
import { once } from 'node:events';
import { createConnection, type Socket } from 'node:net';
import { bounded, cancelledBy } from '../base/deadline.ts';
import { messageOf, QmpvaultError } from '../base/errors.ts';
import { GiB, MiB } from '../base/units.ts';

export interface DataRange {
  readonly startBytes: number;
  readonly endBytes: number;
}

/** At worst every cluster is an extent of its own: 16384 in a piece, which take a VM about 10 ms (m). */
const PIECE_BYTES = GiB;
const REPLY_MAX_BYTES = MiB;
const CONTEXT = 'base:allocation';

const OPTION_MAGIC = Buffer.from('IHAVEOPT');
const OPTION = { go: 7, structuredReply: 8, setMetaContext: 10 } as const;
const OPTION_REPLY_MAGIC = 0x3e889045565a9n;
const OPTION_REPLY = { ack: 1, info: 3, metaContext: 4 } as const;
const FIXED_NEWSTYLE = 1;
const NO_ZEROES = 2;
const INFO_EXPORT = 0;

const REQUEST_MAGIC = 0x25609513;
const COMMAND = { disconnect: 2, blockStatus: 7 } as const;
const CHUNK_MAGIC = 0x668e33ef;
const CHUNK_DONE = 1;
const CHUNK_BLOCK_STATUS = 5;
const STATUS_ZERO = 2;

/** Ascending, not touching each other. All else reads as zero. @throws image-tool-failed, cancelled */
export async function readDataRanges(
  { socket, exportName }: { socket: string; exportName: string },
  { signal, timeoutMs }: { signal?: AbortSignal | undefined; timeoutMs: number },
): Promise<DataRange[]> {
  const what = `the NBD export ${exportName} on ${socket}`;
  const connection = createConnection(socket);
  connection.on('error', () => {}); // whoever reads or writes is told
  try {
    const ranges = readAll(new NbdClient(connection), exportName);
    return await bounded(ranges, { signal, timeoutMs, what, code: 'image-tool-failed' });
  } catch (error) {
    if (signal?.aborted) throw cancelledBy(signal);
    if (error instanceof QmpvaultError) throw error;
    throw new QmpvaultError('image-tool-failed', `${what}: ${messageOf(error)}`, { cause: error });
  } finally {
    connection.destroy();
  }
}

async function readAll(client: NbdClient, exportName: string): Promise<DataRange[]> {
  const sizeBytes = await client.negotiate(exportName);
  const ranges: DataRange[] = [];
  let offset = 0;
  while (offset < sizeBytes) {
    const extents = await client.blockStatus(offset, Math.min(PIECE_BYTES, sizeBytes - offset));
    for (const { lengthBytes, isZero } of extents) {
      const [startBytes, endBytes] = [offset, Math.min(offset + lengthBytes, sizeBytes)];
      const last = ranges.at(-1);
      if (!isZero && last?.endBytes === startBytes) ranges[ranges.length - 1] = { ...last, endBytes };
      else if (!isZero) ranges.push({ startBytes, endBytes });
      offset = endBytes;
    }
  }
  await client.disconnect();
  return ranges;
}

class NbdClient {
  readonly #socket: Socket;
  readonly #bytes: AsyncIterator<Buffer>;
  #received = Buffer.alloc(0);

  constructor(socket: Socket) {
    this.#socket = socket;
    this.#bytes = socket[Symbol.asyncIterator]() as AsyncIterator<Buffer>;
  }

  /** @returns the size of the export */
  async negotiate(exportName: string): Promise<number> {
    const greeting = await this.#read(18);
    if (greeting.toString('latin1', 0, 16) !== 'NBDMAGICIHAVEOPT') throw unexpected('greeting');
    this.#socket.write(u32(FIXED_NEWSTYLE | NO_ZEROES));
    const name = Buffer.from(exportName);
    await this.#option(OPTION.structuredReply, []);
    const contexts = await this.#option(OPTION.setMetaContext, [
      ...[u32(name.length), name],
      ...[u32(1), u32(CONTEXT.length), Buffer.from(CONTEXT)],
    ]);
    if (!contexts.some(({ type }) => type === OPTION_REPLY.metaContext)) throw unexpected('lack of contexts');
    const infos = await this.#option(OPTION.go, [u32(name.length), name, u16(0)]);
    const info = infos.find(
      ({ type, data }) => type === OPTION_REPLY.info && data.readUInt16BE() === INFO_EXPORT,
    );
    if (info === undefined) throw unexpected('lack of a size');
    return Number(info.data.readBigUInt64BE(2));
  }

  /** At least one extent; together they may be shorter than what was asked for, or the last one reach further. */
  async blockStatus(
    offset: number,
    lengthBytes: number,
  ): Promise<{ lengthBytes: number; isZero: boolean }[]> {
    this.#request(COMMAND.blockStatus, offset, lengthBytes);
    const head = await this.#read(20);
    const [magic, flags, type, length] = [
      head.readUInt32BE(0),
      head.readUInt16BE(4),
      head.readUInt16BE(6),
      head.readUInt32BE(16),
    ];
    if (magic !== CHUNK_MAGIC || type !== CHUNK_BLOCK_STATUS || flags !== CHUNK_DONE)
      throw unexpected('reply');
    // A context's id, then for each extent its length and its status.
    if (length < 12 || length % 8 !== 4) throw unexpected('length of a reply');
    const data = await this.#read(length);
    return Array.from({ length: (length - 4) / 8 }, (_, i) => ({
      lengthBytes: data.readUInt32BE(4 + 8 * i),
      isZero: (data.readUInt32BE(8 + 8 * i) & STATUS_ZERO) !== 0,
    }));
  }

  async disconnect(): Promise<void> {
    this.#request(COMMAND.disconnect, 0, 0);
    this.#socket.end();
    await once(this.#socket, 'close');
  }

  async #option(option: number, data: readonly Buffer[]): Promise<{ type: number; data: Buffer }[]> {
    const body = Buffer.concat(data);
    this.#socket.write(Buffer.concat([OPTION_MAGIC, u32(option), u32(body.length), body]));
    const replies: { type: number; data: Buffer }[] = [];
    for (;;) {
      const head = await this.#read(20);
      const type = head.readUInt32BE(12);
      if (head.readBigUInt64BE() !== OPTION_REPLY_MAGIC) throw unexpected('reply to an option');
      const reply = await this.#read(head.readUInt32BE(16));
      if (type === OPTION_REPLY.ack) return replies;
      // Errors have the highest bit set.
      if (type > 0x7fff_ffff) throw unexpected(`refusal of option ${option} (${reply.toString('latin1')})`);
      replies.push({ type, data: reply });
    }
  }

  #request(command: number, offset: number, lengthBytes: number): void {
    const request = Buffer.alloc(28);
    request.writeUInt32BE(REQUEST_MAGIC, 0);
    request.writeUInt16BE(command, 6);
    request.writeBigUInt64BE(BigInt(offset), 16);
    request.writeUInt32BE(lengthBytes, 24);
    this.#socket.write(request);
  }

  async #read(length: number): Promise<Buffer> {
    if (length > REPLY_MAX_BYTES) throw unexpected('length of a reply');
    while (this.#received.length < length) {
      const { value, done } = await this.#bytes.next();
      if (done) throw new QmpvaultError('image-tool-failed', 'the NBD server has gone');
      this.#received = Buffer.concat([this.#received, value]);
    }
    const bytes = this.#received.subarray(0, length);
    this.#received = this.#received.subarray(length);
    return bytes;
  }
}

function unexpected(what: string): QmpvaultError {
  return new QmpvaultError('image-tool-failed', `an NBD server sent an unexpected ${what}`);
}

function u16(value: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16BE(value);
  return bytes;
}

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}
