import t from 'tap';
import { QmpvaultError } from '../../../src/base/errors.ts';
import type { DiskName } from '../../../src/base/ids.ts';
import { planRestore, type RestoreTarget, selectPoint } from '../../../src/restore/restore-plan.ts';
import type { Change } from '../../../src/vault/change.ts';
import type { Manifest } from '../../../src/vault/manifest.ts';
import type { PointListing } from '../../../src/vault/points.ts';
import { diskOf, listingOf, manifestOf, point } from '../../helpers/vault-files.ts';

/** A point from words: `vda` is a full, `vda+` an increment. */
function pointOf(id: string, parent: string | null, disks: string): Manifest {
  return manifestOf(id, {
    parent: parent === null ? null : point(parent),
    disks: disks.split(' ').map((word) => {
      const name = word.replace('+', '') as DiskName;
      return diskOf({
        name,
        kind: word.endsWith('+') ? 'incremental' : 'full',
        file: `${name}-of-${id}.qcow2`,
      });
    }),
  });
}

/** vdb is replaced in c; vdc is plugged in with b. */
const POINTS = [
  pointOf('a', null, 'vda vdb'),
  pointOf('b', 'a', 'vda+ vdb+ vdc'),
  pointOf('c', 'b', 'vda+ vdb vdc+'),
];

function listed(points: Manifest[], more: Partial<PointListing> = {}): PointListing {
  return { points, broken: [], going: [], change: null, ...more };
}

function manifest(id: string): Manifest {
  return selectPoint(listed(POINTS), id);
}

function to(targets: Record<string, string>): RestoreTarget {
  return { disks: new Map(Object.entries(targets) as [DiskName, string][]) };
}

t.test('each disk has a chain of its own, down to its own full', async (t) => {
  const table: [point: string, chains: Record<string, string>][] = [
    ['a', { vda: 'a', vdb: 'a' }],
    ['b', { vda: 'b a', vdb: 'b a', vdc: 'b' }],
    ['c', { vda: 'c b a', vdb: 'c', vdc: 'c b' }],
  ];
  for (const [id, chains] of table) {
    const plans = planRestore(listingOf(POINTS), manifest(id), { target: { dir: '/to' }, format: 'raw' });
    t.same(
      Object.fromEntries(
        plans.map(({ disk, layers }) => [disk, layers.map((layer) => layer.point).join(' ')]),
      ),
      chains,
      id,
    );
    for (const { disk, layers, target } of plans) {
      t.equal(target, `/to/${disk}.raw`);
      for (const [i, layer] of layers.entries()) {
        const under = layers[i + 1];
        t.equal(layer.file, `${disk}-of-${layer.point}.qcow2`);
        t.same(
          layer.backings,
          [under ? { point: under.point, file: under.file } : null],
          'the link it must have',
        );
      }
    }
  }
});

t.test('only the disks that are named are restored, to where it is said', async (t) => {
  const plans = planRestore(listingOf(POINTS), manifest('c'), {
    target: to({ vdc: '/dev/vg/c', vda: 'relative.qcow2' }),
    format: 'qcow2',
  });
  t.same(
    plans.map(({ disk, target }) => [disk, target]),
    [
      ['vdc', '/dev/vg/c'],
      ['vda', `${process.cwd()}/relative.qcow2`],
    ],
  );
});

t.test('what cannot be is refused', async (t) => {
  const table: [points: Manifest[], wanted: string, target: RestoreTarget, code: string][] = [
    [POINTS, 'a', to({ vdc: '/x' }), 'disk-unknown'],
    [POINTS, 'b', to({ vda: '/x', vdb: '/y/../x' }), 'usage'],
    [POINTS.filter(({ id }) => id !== 'a'), 'c', to({ vda: '/x' }), 'manifest-invalid'],
    [[pointOf('a', null, 'vdb'), pointOf('c', 'a', 'vda+')], 'c', to({ vda: '/x' }), 'manifest-invalid'],
    [[pointOf('a', 'c', 'vda+'), pointOf('c', 'a', 'vda+')], 'c', to({ vda: '/x' }), 'manifest-invalid'],
  ];
  for (const [points, wanted, target, code] of table) {
    const chosen = selectPoint(listed(points), wanted);
    t.throws(() => planRestore(listingOf(points), chosen, { target, format: 'qcow2' }), { code }, code);
  }
});

t.test('a full disk needs nothing of a chain that is broken', async (t) => {
  const points = POINTS.filter(({ id }) => id !== 'a');
  const [plan] = planRestore(listingOf(points), manifest('c'), {
    target: to({ vdb: '/x' }),
    format: 'qcow2',
  });
  t.equal(plan?.layers.length, 1);
});

t.test('a point that cannot be read is not taken for one that is not there', async (t) => {
  const broken = [{ id: 'd-damaged', error: new QmpvaultError('manifest-invalid', 'damaged') }];
  const listing = listed(POINTS, { broken });
  t.throws(() => selectPoint(listing, 'd'), { code: 'manifest-invalid' });
  t.throws(() => selectPoint(listing, 'e'), { code: 'point-unknown' });
  t.throws(() => selectPoint(listing, ''), { code: 'point-unknown' });
  t.equal(selectPoint(listing, 'b').id, 'b');
  t.equal(selectPoint(listing, 'latest').id, 'c');
});

t.test('while a change is open, a file that it moves may stand here or there', async (t) => {
  const [a, b] = [POINTS[0]!, POINTS[1]!];
  const c = pointOf('c', 'b', 'vda+');
  const [onB, onA] = [
    { point: b.id, file: 'vda-of-b.qcow2' },
    { point: a.id, file: 'vda-of-a.qcow2' },
  ];
  const change: Change = {
    format: 1,
    what: 'delete of b',
    stage: 'switching',
    moves: [
      { point: c.id, disk: 'vda' as DiskName, file: 'vda-of-c.qcow2', from: onB, backing: onA, how: 'pull' },
    ],
    parents: [{ point: c.id, parent: a.id }],
    removes: [b.id],
  };
  const target = to({ vda: '/x' });
  const before = planRestore(listed([a, c], { going: [b], change }), c, { target, format: 'raw' })[0]!;
  t.match(before.layers, [
    { point: 'c', backings: [onB, onA], storedBytes: null },
    { point: 'b', backings: [onA], storedBytes: null, virtualSizeBytes: null },
    { point: 'a', backings: [null], storedBytes: 262144 },
  ]);
  const removed = planRestore(listed([a, c], { change }), c, { target, format: 'raw' })[0]!;
  t.same(
    removed.layers.map(({ point }) => point),
    ['c', 'a'],
    'what goes is no longer needed at the end',
  );
});
