import t from 'tap';
import { familyOf, treeRows, treeSvg, treeText } from '../../../src/cli/chain-tree.ts';
import { pointJson } from '../../../src/operations/point-json.ts';
import { diskOf, manifestOf, point } from '../../helpers/vault-files.ts';

function pointOf(id: string, parent: string | null, more: object = {}) {
  const disks = [diskOf({ kind: parent === null ? 'full' : 'incremental', storedBytes: 3 << 20 })];
  return pointJson(manifestOf(id, { parent: parent === null ? null : point(parent), disks, ...more }));
}

const POINTS = [
  pointOf('a', null),
  pointOf('b', 'a'),
  pointOf('c', 'b', { sealed: true }),
  pointOf('d', 'b', { protected: true }),
  pointOf('e', 'd'),
  pointOf('f', null),
  pointOf('g', 'gone'),
];

t.test('a chain is a straight line, branches stand out', async (t) => {
  t.equal(
    treeText(treeRows(POINTS)),
    `a  full  first  3.00 MiB
b  incremental  tracked  3.00 MiB
├─c  incremental  tracked  3.00 MiB  sealed
d  incremental  tracked  3.00 MiB  protected
e  incremental  tracked  3.00 MiB

f  full  first  3.00 MiB

g  incremental  tracked  3.00 MiB
`,
  );
  t.equal(treeText(treeRows([])), '');
});

t.test('a point is pointed at among those of its own chain', async (t) => {
  const family = familyOf(POINTS, 'd');
  t.strictSame(
    family.map(({ id }) => id as string),
    ['a', 'b', 'c', 'd', 'e'],
  );
  t.match(treeText(treeRows(family), 'd'), /\nd .* protected {2}<-\n/);
  t.strictSame(familyOf(POINTS, 'g').length, 1);
});

t.test('as a drawing: a node for each point, a line to each parent', async (t) => {
  const svg = treeSvg(treeRows([...POINTS, pointOf('h', 'e', { how: 'a<b>&c' })]));
  t.equal(svg.match(/<circle/g)?.length, 8);
  t.equal(svg.match(/<path/g)?.length, 5);
  t.match(svg, 'a&lt;b&gt;&amp;c');
});

t.test('a chain of thousands is drawn too', async (t) => {
  const long = Array.from({ length: 3000 }, (_, i) =>
    pointOf(`p${i}`, i === 0 ? null : `p${i - 1}`, {
      createdAt: new Date(Date.UTC(2026, 0, 1, 0, i)).toISOString(),
    }),
  );
  t.equal(treeRows(long).length, 3000);
});
