import t from 'tap';
import type { RunId } from '../../../src/base/ids.ts';
import { shareBandwidth } from '../../../src/daemon/bandwidth.ts';

t.test('shares are as equal as the ceilings allow, and use the limit up', async (t) => {
  const table: [limit: number | null, ceilings: (number | null)[], shares: (number | null)[]][] = [
    [null, [], []],
    [null, [null, 5], [null, 5]],
    [100, [null], [100]],
    [100, [null, null, null], [33, 33, 34]],
    [100, [10, null, null], [10, 45, 45]],
    [100, [null, 10, 20], [70, 10, 20]],
    [100, [10, 20], [10, 20]],
    [100, [500, 30], [70, 30]],
    [1, [null, null], [1, 1]],
  ];
  for (const [limit, ceilings, shares] of table) {
    const runs = ceilings.map((ceiling, i) => ({ id: `${i}` as RunId, ceiling }));
    const found = shareBandwidth(limit, runs);
    t.strictSame(
      runs.map(({ id }) => found.get(id)),
      shares,
      `${limit} among ${ceilings}`,
    );
  }
});
