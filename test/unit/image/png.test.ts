import { inflateSync } from 'node:zlib';
import t from 'tap';
import { pngOf } from '../../../src/image/png.ts';

t.test('the pixels of a PPM are those of the PNG', async (t) => {
  const pixels = Buffer.from([255, 0, 0, 0, 255, 0, 0, 0, 255, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  const png = pngOf(Buffer.concat([Buffer.from('P6\n3 2\n255\n'), pixels]));
  t.ok(png);
  if (png === null) return;
  t.strictSame([png.readUInt32BE(16), png.readUInt32BE(20)], [3, 2]);
  const length = png.readUInt32BE(33);
  const rows = inflateSync(png.subarray(41, 41 + length));
  t.strictSame(rows, Buffer.concat([Buffer.of(0), pixels.subarray(0, 9), Buffer.of(0), pixels.subarray(9)]));
  t.equal(png.subarray(-8, -4).toString('latin1'), 'IEND');
  t.equal(png.readUInt32BE(png.length - 4), 0xae426082, 'the checksum that the specification gives for IEND');
});

t.test('what is no PPM of QEMU becomes no PNG', async (t) => {
  for (const text of [
    '',
    'P5\n1 1\n255\nx',
    'P6\n1 1\n255\nxx',
    'P6\n0 0\n255\n',
    'P6\n1 1\n65535\nxxxxxx',
  ]) {
    t.equal(pngOf(Buffer.from(text)), null, JSON.stringify(text));
  }
});
