import * as fc from 'fast-check';
import t from 'tap';
import {
  ancestors,
  type ChainPoint,
  chainLength,
  children,
  descendants,
  inOrder,
  isSealedChain,
  newest,
  pointBySelector,
} from '../../../src/vault/chain.ts';
import { point } from '../../helpers/vault-files.ts';

/** Points from a word each: `c<b!` is c with parent b, sealed; made in the order written, a minute apart. */
function points(words: string): ChainPoint[] {
  return words.split(' ').map((word, i) => {
    const [, id, parent, sealed] = /^(\w+)(?:<(\w+))?(!)?$/.exec(word) ?? [];
    return {
      id: point(id!),
      parent: parent === undefined ? null : point(parent),
      createdAt: new Date(Date.UTC(2026, 10, 20, 8, i)).toISOString(),
      sealed: sealed !== undefined,
    };
  });
}

const ids = (list: readonly ChainPoint[]) => list.map(({ id }) => id).join(' ');

//        a ── b ── c ── e        f ── g
//             └─── d
const FOREST = points('a b<a c<b d<b e<c f g<f');

t.test('lines, children and descendants', async (t) => {
  const table: [id: string, ancestors: string, children: string, descendants: string][] = [
    ['a', '', 'b', 'b c d e'],
    ['b', 'a', 'c d', 'c d e'],
    ['c', 'b a', 'e', 'e'],
    ['d', 'b a', '', ''],
    ['e', 'c b a', '', ''],
    ['g', 'f', '', ''],
  ];
  for (const [id, above, below, all] of table) {
    t.equal(ids(ancestors(FOREST, point(id))), above, `ancestors of ${id}`);
    t.equal(ids(children(FOREST, point(id))), below, `children of ${id}`);
    t.equal(ids(descendants(FOREST, point(id))), all, `descendants of ${id}`);
    t.equal(chainLength(FOREST, point(id)), ancestors(FOREST, point(id)).length + 1);
  }
});

t.test('a line that does not reach a full is an error, and not to be extended', async (t) => {
  const table: [words: string, id: string, broken: string][] = [
    ['b<a c<b', 'c', 'a'],
    ['a<b b<a', 'a', 'a'],
    ['a b<c c<d d<b', 'd', 'd'],
  ];
  for (const [words, id, broken] of table) {
    const damaged = points(words);
    t.throws(
      () => ancestors(damaged, point(id)),
      { code: 'manifest-invalid', details: { point: id, broken } },
      words,
    );
    t.throws(() => chainLength(damaged, point(id)), { code: 'manifest-invalid' });
    t.ok(isSealedChain(damaged, point(id)), words);
    t.doesNotThrow(() => descendants(damaged, point(id)));
    t.equal(inOrder(damaged).length, damaged.length);
  }
  t.throws(() => ancestors(FOREST, point('x')), { code: 'point-unknown' });
  t.throws(() => isSealedChain(FOREST, point('x')), { code: 'point-unknown' });
});

t.test('a seal holds for all that needs the sealed point, and for nothing else', async (t) => {
  const forest = points('a b<a! c<b d<a');
  for (const [id, sealed] of Object.entries({ a: false, b: true, c: true, d: false })) {
    t.equal(isSealedChain(forest, point(id)), sealed, id);
  }
});

t.test('the newest is the last in order', async (t) => {
  t.equal(newest(FOREST)?.id, 'g');
  t.equal(newest(FOREST.toReversed())?.id, 'g');
  t.equal(newest([]), null);
});

t.test('a clock that went back puts no child before its parent', async (t) => {
  const [a, b, c] = points('a b<a c<b');
  const skewed = [
    a!,
    { ...b!, createdAt: '2020-01-01T00:00:00.000Z' },
    { ...c!, createdAt: '2019-01-01T00:00:00.000Z' },
  ];
  t.equal(ids(inOrder(skewed.toReversed())), 'a b c');
  t.equal(newest(skewed)?.id, 'c');
});

t.test('the order depends on the points only, and parents always come first', async () => {
  const tree = fc
    .array(fc.record({ parent: fc.nat(), minute: fc.nat(30), orphan: fc.boolean() }), {
      minLength: 1,
      maxLength: 12,
    })
    .map((list) =>
      list.map(
        ({ parent, minute, orphan }, i): ChainPoint => ({
          id: point(`p${i}`),
          parent: orphan || i === 0 ? null : point(`p${parent % i}`),
          createdAt: new Date(Date.UTC(2026, 10, 20, 8, minute)).toISOString(),
          sealed: false,
        }),
      ),
    );
  const shuffled = tree.chain((list) =>
    fc.tuple(
      fc.constant(list),
      fc.shuffledSubarray(list, { minLength: list.length, maxLength: list.length }),
    ),
  );
  await fc.assert(
    fc.property(shuffled, ([list, mixed]) => {
      const order = inOrder(mixed);
      const place = new Map(order.map(({ id }, i) => [id, i]));
      return (
        ids(order) === ids(inOrder(list)) &&
        order.every(({ id, parent }) => parent === null || place.get(parent)! < place.get(id)!)
      );
    }),
  );
});

t.test('a point is chosen by its id, a unique beginning of it, or as the latest', async (t) => {
  const list = points('20261119 20261120 20261120b');
  const table: [selector: string, id: string][] = [
    ['latest', '20261120b'],
    ['20261120', '20261120'],
    ['20261120b', '20261120b'],
    ['20261119', '20261119'],
    ['2026111', '20261119'],
  ];
  for (const [selector, id] of table) t.equal(pointBySelector(list, selector).id, id, selector);
  t.throws(() => pointBySelector(list, '2026112'), {
    code: 'usage',
    details: { candidates: ['20261120', '20261120b'] },
  });
  for (const selector of ['2027', '', '0261119']) {
    t.throws(() => pointBySelector(list, selector), { code: 'point-unknown', details: { point: selector } });
  }
  t.throws(() => pointBySelector([], 'latest'), { code: 'point-unknown' });
});
