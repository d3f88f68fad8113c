/** A screenshot as PNG. QEMU writes PNG itself only since 7.1, and where it was built for it; PPM it always writes. */
import { crc32, deflateSync } from 'node:zlib';

const SIGNATURE = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);

/** @param ppm as QEMU's screendump writes it: `P6`, width, height, 255, then three bytes a pixel; null for anything else */
export function pngOf(ppm: Buffer): Buffer | null {
  const match = /^P6\s+(\d+)\s+(\d+)\s+255\s/.exec(ppm.toString('latin1', 0, 64));
  const [head, width, height] = [match?.[0] ?? '', Number(match?.[1]), Number(match?.[2])];
  const pixels = ppm.subarray(head.length);
  if (match === null || pixels.length !== 3 * width * height || pixels.length === 0) return null;
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width, 0);
  header.writeUInt32BE(height, 4);
  // Eight bits a channel, red green blue.
  header.set([8, 2], 8);
  const row = 3 * width;
  const rows = Array.from({ length: height }, (_, y) => [
    Buffer.of(0),
    pixels.subarray(y * row, (y + 1) * row),
  ]);
  return Buffer.concat([
    SIGNATURE,
    chunk('IHDR', header),
    chunk('IDAT', deflateSync(Buffer.concat(rows.flat()))),
    chunk('IEND', Buffer.alloc(0)),
  ]);
}

function chunk(type: string, data: Buffer): Buffer {
  const body = Buffer.concat([Buffer.from(type, 'latin1'), data]);
  const [length, sum] = [Buffer.alloc(4), Buffer.alloc(4)];
  length.writeUInt32BE(data.length);
  sum.writeUInt32BE(crc32(body));
  return Buffer.concat([length, body, sum]);
}
