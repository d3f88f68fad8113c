import t from 'tap';
import { type BitmapHealth, type Facts, planBackup } from '../../../src/backup/plan.ts';
import {
  type BitmapName,
  diskName,
  type PointId,
  type RunId,
  type VaultId,
  vmName,
} from '../../../src/base/ids.ts';
import type { Manifest } from '../../../src/vault/manifest.ts';

const GiB = 1024 ** 3;
let clock = Date.UTC(2026, 10, 20);

function point(id: string, parent: string | null, over: Partial<Manifest> = {}): Manifest {
  clock += 60_000;
  const kind = parent === null ? 'full' : 'incremental';
  const source = {
    image: '/images/vda.qcow2',
    format: 'qcow2',
    node: 'n',
    device: '/machine/peripheral/vda',
  };
  const disk = (name: string) => ({
    name: diskName(name),
    kind: kind as 'full' | 'incremental',
    file: `${name}.qcow2`,
    virtualSizeBytes: GiB,
    copiedBytes: 0,
    storedBytes: 0,
    sha256: null,
    bitmap: { name: bitmapOf(id, name), pattern: [] },
    granularityBytes: 65536,
    source,
  });
  return {
    format: 1,
    id: id as PointId,
    vm: { name: vmName('web1'), uuid: 'u' },
    vault: '0'.repeat(32) as VaultId,
    createdAt: new Date(clock).toISOString(),
    kind,
    parent: parent as PointId | null,
    how: 'first',
    why: '',
    consistency: 'crash',
    sealed: false,
    disks: [disk('vda'), disk('vdb')],
    left: [],
    timings: { freezeMs: null, pauseMs: null, copyMs: 0, totalMs: 0 },
    versions: { engine: 'test', qemu: 'test', format: 1 },
    run: '00000000' as RunId,
    ...over,
  };
}

const bitmapOf = (id: string, disk: string) => `bitmap of ${disk} at ${id}` as BitmapName;
const tracked = (of: Manifest, name: string): BitmapHealth => ({
  state: 'tracked',
  name: bitmapOf(of.id, name),
  point: of,
});
const lost: BitmapHealth = { state: 'lost', why: 'it has none' };

const first = point('p1', null);
const second = point('p2', 'p1');

/** Two disks tracked from the newest of two points, no wishes: what each row changes of that. */
interface Changes extends Partial<Facts> {
  readonly names?: string[];
  readonly vda?: Partial<Facts['disks'][0]>;
  readonly vdc?: Partial<Facts['disks'][0]>;
  readonly all?: (name: string) => BitmapHealth;
}

function facts(over: Changes = {}): Facts {
  const { vda, vdc, all, names = ['vda', 'vdb'], ...rest } = over;
  const newest = rest.points?.at(-1) ?? second;
  return {
    points: [first, second],
    broken: [],
    disks: names.map((name) => ({
      name: diskName(name),
      sizeBytes: GiB,
      resyncTrouble: null,
      bitmap: all?.(name) ?? tracked(newest, name),
      ...(name === 'vda' ? vda : name === 'vdc' ? vdc : {}),
    })),
    wishes: { full: false, fullEvery: 10 },
    damaged: new Map(),
    ...rest,
  };
}

const on = (parent: string, bitmapAlias?: string) => ({
  wishes: { full: false, fullEvery: 10, parent: { point: parent as PointId, bitmapAlias } },
});
const called = { ...second, bitmapAlias: 'backup-2' };
const sealed = point('p3', 'p2', { sealed: true });
const other = point('q1', null);
const table: [string, Facts, string][] = [
  ['changes that are tracked on all disks', facts(), 'incremental tracked'],
  ['no point yet', facts({ points: [] }), 'full first'],
  ['only damaged points', facts({ points: [], broken: [{ id: 'p1' }] }), 'full chain-sealed'],
  ['a full that was asked for', facts({ wishes: { full: true, fullEvery: 10 } }), 'full requested'],
  ['a chain that is as long as it may be', facts({ wishes: { full: false, fullEvery: 2 } }), 'full cadence'],
  ['a chain that may have one more', facts({ wishes: { full: false, fullEvery: 3 } }), 'incremental tracked'],
  ['a full every time', facts({ points: [first], wishes: { full: false, fullEvery: 1 } }), 'full cadence'],
  [
    'full-every 0 is a full every time',
    facts({ points: [first], wishes: { full: false, fullEvery: 0 } }),
    'full cadence',
  ],
  ['a sealed newest point', facts({ points: [first, second, sealed] }), 'full chain-sealed'],
  ['a sealed point further up', facts({ points: [{ ...first, sealed: true }, second] }), 'full chain-sealed'],
  ['a parent that is missing', facts({ points: [second] }), 'full chain-sealed'],
  [
    'a file that is missing on the NAS',
    facts({ damaged: new Map([[first.id, 'vda.qcow2 is missing']]) }),
    'full chain-sealed',
  ],
  [
    'a damaged point that is not in the chain',
    facts({ damaged: new Map([['p0' as PointId, 'vda.qcow2 is missing']]) }),
    'incremental tracked',
  ],
  ['a lost bitmap on one disk', facts({ vda: { bitmap: lost } }), 'incremental resynced'],
  [
    'a lost bitmap where contents cannot be compared',
    facts({ vda: { bitmap: lost, resyncTrouble: 'no' } }),
    'full bitmap-lost',
  ],
  ['one disk rolled back', facts({ vda: { bitmap: tracked(first, 'vda') } }), 'incremental resynced'],
  ['all disks rolled back', facts({ all: (name) => tracked(first, name) }), 'incremental branched'],
  [
    'all disks rolled back to a sealed point',
    facts({ points: [{ ...first, sealed: true }, other], all: (name) => tracked(first, name) }),
    'incremental resynced',
  ],
  [
    'rolled back to a point that may have no more',
    facts({ wishes: { full: false, fullEvery: 1 }, all: (name) => tracked(first, name) }),
    'full cadence',
  ],
  ['a disk that grew', facts({ vda: { sizeBytes: 2 * GiB } }), 'incremental tracked'],
  ['a disk that shrank', facts({ vda: { sizeBytes: GiB / 2 } }), 'full disks-changed'],
  ['a disk more', facts({ names: ['vda', 'vdb', 'vdc'], vdc: { bitmap: lost } }), 'incremental tracked'],
  ['a disk less', facts({ names: ['vda'] }), 'incremental tracked'],
  ['other disks altogether', facts({ names: ['sda', 'sdb'] }), 'full disks-changed'],
  ['the newest point named as the parent', facts(on('p2')), 'incremental tracked'],
  ['an older point named as the parent', facts(on('p1')), 'incremental resynced'],
  [
    'an older point named, to which all disks were rolled back',
    facts({ ...on('p1'), all: (name) => tracked(first, name) }),
    'incremental branched',
  ],
  [
    'the newest point named, though all disks were rolled back to an older one',
    facts({ ...on('p2'), all: (name) => tracked(first, name) }),
    'incremental resynced',
  ],
  ['a named parent that is not there', facts(on('p9')), 'full chain-sealed'],
  [
    'a named parent that is sealed',
    facts({ points: [first, { ...second, sealed: true }], ...on('p2') }),
    'full chain-sealed',
  ],
  [
    'a named parent without one of the disks',
    facts({ names: ['vda', 'vdc'], vdc: { bitmap: lost }, ...on('p2') }),
    'full disks-changed',
  ],
  [
    'a named parent that cannot be compared with',
    facts({ ...on('p1'), vda: { resyncTrouble: 'no' } }),
    'full bitmap-lost',
  ],
  ['a named parent before there is any', facts({ points: [], ...on('p1') }), 'full first'],
  [
    'the alias of its bitmaps',
    facts({ points: [first, called], ...on('p2', 'backup-2') }),
    'incremental tracked',
  ],
  [
    'another alias than that of its bitmaps',
    facts({ points: [first, called], ...on('p2', 'backup-1') }),
    'incremental resynced',
  ],
  ['an alias where its bitmaps have none', facts(on('p2', 'backup-2')), 'incremental resynced'],
];

for (const [title, given, expected] of table) {
  t.test(`${title}: ${expected}`, async (t) => {
    const plan = planBackup(given);
    t.equal(`${plan.kind} ${plan.how}`, expected);
    t.not(plan.why, '', 'and says why');
  });
}

t.test('an incremental names the newest point and the bitmap of each disk', async (t) => {
  const plan = planBackup(facts());
  if (plan.kind !== 'incremental') {
    t.fail('not an incremental');
    return;
  }
  t.equal(plan.parent.id, 'p2');
  t.strictSame(
    [...plan.disks],
    [
      ['vda', { how: 'tracked', bitmap: bitmapOf('p2', 'vda') }],
      ['vdb', { how: 'tracked', bitmap: bitmapOf('p2', 'vdb') }],
    ],
  );
});

t.test('only the disks that lost their bitmap are compared, and a new one is copied', async (t) => {
  const plan = planBackup(
    facts({ names: ['vda', 'vdb', 'vdc'], vda: { bitmap: lost }, vdc: { bitmap: lost } }),
  );
  if (plan.kind !== 'incremental') {
    t.fail('not an incremental');
    return;
  }
  t.strictSame(
    [...plan.disks.values()].map(({ how }) => how),
    ['resync', 'tracked', 'full'],
  );
  t.match(plan.why, /vda .*it has none.*vdc is not in p2/);
});
