import t from 'tap';
import { GiB, KiB, MiB } from '../../../src/base/units.ts';
import { granuleBytesOf } from '../../../src/vm/data-bitmap.ts';

t.test('a disk has at most 1024 granules, none of them smaller than what QEMU copies at once', async (t) => {
  t.equal(granuleBytesOf(64 * KiB), MiB);
  t.equal(granuleBytesOf(GiB), MiB);
  t.equal(granuleBytesOf(GiB + 512), 2 * MiB);
  t.equal(granuleBytesOf(100 * GiB), 128 * MiB);
  t.equal(granuleBytesOf(2048 * GiB), 2 * GiB);
});

t.test('a granule is never larger than a bitmap takes', async (t) => {
  t.equal(granuleBytesOf(64 * 1024 * GiB), 2 * GiB);
});
