import fc from 'fast-check';
import t from 'tap';
import { GRANULARITY_BYTES, newPattern } from '../../../src/vm/bitmaps.ts';

t.test(
  'an identity is of distinct clusters, ascending, and the one in which the disk ends is among them',
  async (t) => {
    const SECTOR_BYTES = 512;
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 1 << 24 }), (sectors) => {
        const pattern = newPattern(sectors * SECTOR_BYTES);
        const last = Math.floor((sectors * SECTOR_BYTES - 1) / GRANULARITY_BYTES) * GRANULARITY_BYTES;
        t.equal(pattern.at(-1), last);
        t.ok(pattern.every((offset) => offset % GRANULARITY_BYTES === 0));
        t.ok(pattern.every((offset, i) => i === 0 || offset > (pattern[i - 1] as number)));
        t.equal(pattern.length, Math.min(16, last / GRANULARITY_BYTES + 1));
      }),
    );
  },
);
