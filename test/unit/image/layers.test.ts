import fc from 'fast-check';
import t from 'tap';
import { commonBytes } from '../../../src/image/layers.ts';
import type { Extent } from '../../../src/image/qemu-img.ts';

/** From the units that are in it. */
function extentsOf(units: readonly boolean[]): Extent[] {
  return units.flatMap((isIn, unit) =>
    isIn ? [{ startBytes: unit * 512, lengthBytes: 512, depth: 0, isPresent: true, isZero: true }] : [],
  );
}

/** Neighbours are one extent, as in a map of QEMU. */
function joined(extents: readonly Extent[]): Extent[] {
  const result: Extent[] = [];
  for (const extent of extents) {
    const last = result.at(-1);
    if (last !== undefined && last.startBytes + last.lengthBytes === extent.startBytes) {
      result.splice(-1, 1, { ...last, lengthBytes: last.lengthBytes + extent.lengthBytes });
    } else result.push(extent);
  }
  return result;
}

t.test('what two lists of extents have in common is counted, however they are cut', async (t) => {
  const units = fc.array(fc.boolean(), { maxLength: 40 });
  fc.assert(
    fc.property(units, units, (a, b) => {
      const common = a.filter((isIn, unit) => isIn && b[unit]).length * 512;
      return (
        commonBytes(extentsOf(a), joined(extentsOf(b))) === common &&
        commonBytes(joined(extentsOf(a)), extentsOf(b)) === common
      );
    }),
  );
  t.equal(commonBytes([], extentsOf([true])), 0);
});
