import t from 'tap';
import type { DiskName } from '../../../src/base/ids.ts';
import { asChanged, changeFrom, type Descendants, planDelete } from '../../../src/upkeep/delete-plan.ts';
import type { Manifest } from '../../../src/vault/manifest.ts';
import { diskOf, manifestOf, point } from '../../helpers/vault-files.ts';

/** `vda` is a full, `vda+` an increment; a number behind it is what its file takes, else 10. */
function pointOf(id: string, parent: string | null, disks: string, overrides: Partial<Manifest> = {}) {
  return manifestOf(id, {
    parent: parent === null ? null : point(parent),
    disks: disks.split(' ').map((word) => {
      const [, name = '', plus, bytes] = /^(\w+?)(\+?)(?::(\d+))?$/.exec(word) ?? [];
      return diskOf({
        name: name as DiskName,
        kind: plus ? 'incremental' : 'full',
        file: `${name}.qcow2`,
        storedBytes: Number(bytes ?? 10),
      });
    }),
    ...overrides,
  });
}

function planOf(points: readonly Manifest[], id: string, wish: Descendants = 'keep') {
  const wanted = points.find((point) => point.id === id) as Manifest;
  const bytesOf = (point: string, file: string) =>
    points.find(({ id }) => id === point)?.disks.find((disk) => disk.file === file)?.storedBytes ?? 0;
  return planDelete(points, wanted, wish, bytesOf);
}

/** The plan in words: `c.vda commit -> a`, `c under a`, `removes b`. */
function inWords(points: readonly Manifest[], id: string, wish?: Descendants): string[] {
  const { moves, parents, removes } = planOf(points, id, wish);
  return [
    ...moves.map(({ point, disk, how, backing }) => `${point}.${disk} ${how} -> ${backing?.point ?? 'none'}`),
    ...parents.map(({ point, parent }) => `${point} under ${parent ?? 'none'}`),
    `removes ${removes.join(' ')}`,
  ];
}

const CHAIN = [pointOf('a', null, 'vda:100'), pointOf('b', 'a', 'vda+:20'), pointOf('c', 'b', 'vda+:10')];
const TREE = [
  pointOf('a', null, 'vda:100'),
  pointOf('b', 'a', 'vda+:20'),
  pointOf('c', 'b', 'vda+:30'),
  pointOf('d', 'b', 'vda+:5'),
];
const PLUGGED = [
  pointOf('a', null, 'vda'),
  pointOf('b', 'a', 'vda+ vdb:90'),
  pointOf('c', 'b', 'vda+ vdb+:50'),
  pointOf('d', 'b', 'vda+:9 vdb+'),
];

t.test('what is moved where', async (t) => {
  const table: [title: string, points: Manifest[], id: string, wish: Descendants, words: string[]][] = [
    ['the only point', CHAIN.slice(0, 1), 'a', 'refuse', ['removes a']],
    ['the newest', CHAIN, 'c', 'refuse', ['removes c']],
    [
      'a middle one, the child smaller',
      CHAIN,
      'b',
      'refuse',
      ['c.vda commit -> a', 'c under a', 'removes b'],
    ],
    [
      'a middle one, the child larger',
      [...CHAIN.slice(0, 2), pointOf('c', 'b', 'vda+:21')],
      'b',
      'refuse',
      ['c.vda pull -> a', 'c under a', 'removes b'],
    ],
    [
      'a full: its child becomes the full',
      CHAIN,
      'a',
      'keep',
      ['b.vda commit -> none', 'b under none', 'removes a'],
    ],
    ['a full with its descendants', CHAIN, 'a', 'delete', ['removes c b a']],
    [
      'two children: only the smaller one can take the place',
      TREE,
      'b',
      'refuse',
      ['c.vda pull -> a', 'd.vda commit -> a', 'c under a', 'd under a', 'removes b'],
    ],
    [
      'a full with two children: the second is made anew over the first',
      TREE.slice(1).map((p) => (p.id === 'b' ? pointOf('b', null, 'vda:100') : p)),
      'b',
      'keep',
      ['c.vda commit -> none', 'd.vda rewrite -> c', 'c under none', 'd under c', 'removes b'],
    ],
    [
      'a disk that was plugged in with it',
      PLUGGED,
      'b',
      'refuse',
      [
        'c.vda pull -> a',
        'c.vdb pull -> none',
        'd.vda commit -> a',
        'd.vdb commit -> none',
        'c under a',
        'd under a',
        'removes b',
      ],
    ],
    [
      'a child of which nothing stands on an older point any more',
      [PLUGGED[0] as Manifest, PLUGGED[1] as Manifest, pointOf('c', 'b', 'vda vdb+')],
      'b',
      'refuse',
      ['c.vdb commit -> none', 'c under none', 'removes b'],
    ],
  ];
  for (const [title, points, id, wish, words] of table) t.strictSame(inWords(points, id, wish), words, title);
});

t.test('a layer that hides what lies behind its end is not merged by tables', async (t) => {
  const sized = (id: string, parent: string | null, bytes: number) => {
    const made = pointOf(id, parent, parent ? 'vda+' : 'vda');
    return { ...made, disks: made.disks.map((disk) => ({ ...disk, virtualSizeBytes: bytes })) };
  };
  const shortened = [sized('a', null, 300), sized('b', 'a', 200), sized('c', 'b', 300)];
  t.match(planOf(shortened, 'b').moves, [{ how: 'rewrite' }]);
  const smallerChild = [sized('a', null, 200), sized('b', 'a', 300), sized('c', 'b', 200)];
  t.match(planOf(smallerChild, 'b').moves, [{ how: 'pull' }]);
});

t.test('what it frees and what it costs', async (t) => {
  t.match(planOf(CHAIN, 'b'), { freedBytes: 20, mergeBytes: 10 });
  t.match(planOf(CHAIN, 'a'), { freedBytes: 100, mergeBytes: 20 });
  t.match(planOf(CHAIN, 'a', 'delete'), { freedBytes: 130, mergeBytes: 0 });
});

t.test('what would lose points is refused', async (t) => {
  const guarded = CHAIN.map((p) => (p.id === 'b' ? { ...p, protected: true } : p));
  const table: [points: Manifest[], id: string, wish: Descendants, code: string][] = [
    [CHAIN, 'a', 'refuse', 'points-would-be-lost'],
    [guarded, 'b', 'keep', 'points-would-be-lost'],
    [guarded, 'a', 'delete', 'points-would-be-lost'],
    [CHAIN.slice(1), 'b', 'keep', 'manifest-invalid'],
    [[pointOf('a', null, 'vdb'), pointOf('b', 'a', 'vda+')], 'a', 'keep', 'manifest-invalid'],
  ];
  for (const [points, id, wish, code] of table) {
    t.throws(() => planOf(points, id, wish), { code }, `${id} ${wish}`);
  }
  t.doesNotThrow(() => planOf(guarded, 'c'), 'a protected parent is no hindrance');
});

t.test('manifests afterwards', async (t) => {
  const after = (points: Manifest[], id: string) => {
    const change = changeFrom(planOf(points, id), 'a test');
    return points.filter((point) => point.id !== id).map((point) => asChanged(point, change));
  };
  t.match(after(CHAIN, 'a'), [
    { id: 'b', kind: 'full', parent: null, disks: [{ kind: 'full' }] },
    { id: 'c', kind: 'incremental', parent: 'b', disks: [{ kind: 'incremental' }] },
  ]);
  t.match(after(PLUGGED, 'b'), [
    { id: 'a', parent: null },
    { id: 'c', kind: 'incremental', parent: 'a', disks: [{ kind: 'incremental' }, { kind: 'full' }] },
    { id: 'd', kind: 'incremental', parent: 'a', disks: [{ kind: 'incremental' }, { kind: 'full' }] },
  ]);
});
