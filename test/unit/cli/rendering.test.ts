import t from 'tap';
import type { Inspection } from '../../../src/backup/inspect.ts';
import type { DiskName } from '../../../src/base/ids.ts';
import { GiB, MiB } from '../../../src/base/units.ts';
import { inspectionText } from '../../../src/cli/commands/inspect.ts';
import { pointDetails, pointSummary, pointTable } from '../../../src/cli/point-text.ts';
import { paceOf } from '../../../src/cli/progress-bars.ts';
import { properties, table } from '../../../src/cli/table.ts';
import { pointDetailsJson, pointJson } from '../../../src/operations/point-json.ts';
import { diskOf, manifestOf, point } from '../../helpers/vault-files.ts';

const POINT = manifestOf('20261120T084112.123Z-5f3a', {
  parent: point('20261119T084112.123Z-11aa'),
  timings: { freezeMs: 12.1, pauseMs: null, copyMs: 80, totalMs: 1190 },
  disks: [
    diskOf({ kind: 'incremental', virtualSizeBytes: GiB, copiedBytes: 6 * MiB, storedBytes: 7 * MiB }),
    diskOf({ name: 'data' as DiskName, file: 'data.qcow2', sha256: 'ab'.repeat(32) }),
  ],
  left: [{ name: 'sr0', why: 'it is a CD-ROM' }],
});

t.test('a restore point as JSON has exactly the members that are documented', async (t) => {
  t.same(pointJson(POINT), {
    id: '20261120T084112.123Z-5f3a',
    vm: 'web1',
    kind: 'incremental',
    how: 'tracked',
    why: 'a test asked for it',
    parent: '20261119T084112.123Z-11aa',
    createdAt: '2026-11-20T08:41:12.123Z',
    consistency: 'crash',
    sealed: false,
    protected: false,
    disks: [
      {
        name: 'vda',
        file: 'vda.qcow2',
        virtualSizeBytes: 1073741824,
        copiedBytes: 6291456,
        storedBytes: 7340032,
        sha256: null,
      },
      {
        name: 'data',
        file: 'data.qcow2',
        virtualSizeBytes: 1073741824,
        copiedBytes: 65536,
        storedBytes: 262144,
        sha256: 'ab'.repeat(32),
      },
    ],
    timings: { freezeMs: 12.1, pauseMs: null, copyMs: 80, totalMs: 1190 },
  });
});

t.test('columns stand under each other, numbers to the right', async (t) => {
  t.equal(
    table(
      ['NAME', 'SIZE', 'WHERE'],
      [
        ['a', '1 B', 'x'],
        ['längst', '100 B', ''],
      ],
      ['SIZE'],
    ),
    'NAME     SIZE  WHERE\n' + 'a         1 B  x\n' + 'längst  100 B\n',
  );
  t.equal(table(['A'], []), 'A\n');
  t.equal(
    properties([
      ['a', '1'],
      ['long', '2'],
    ]),
    'a     1\nlong  2\n',
  );
});

t.test('points in a list', async (t) => {
  t.equal(
    pointTable([POINT, manifestOf('p2', { sealed: true })].map(pointJson), false),
    [
      'POINT                      CREATED (UTC)        KIND         HOW            CONSISTENCY    STORED  DISKS',
      '20261120T084112.123Z-5f3a  2026-11-20 08:41:12  incremental  tracked        crash        7.25 MiB  vda data',
      'p2                         2026-11-20 08:41:12  full         first, sealed  crash         256 KiB  vda',
      '',
    ].join('\n'),
  );
  t.match(pointTable([pointJson(POINT)], true), /^VM .*\nweb1 /);
});

t.test('one point in detail, and in a line', async (t) => {
  const text = pointDetails(pointDetailsJson(POINT), 'a <- b');
  for (const part of [
    /^point +20261120T084112\.123Z-5f3a$/m,
    /^vm +web1 \(7d5b6a0e-.*\)$/m,
    /^created +2026-11-20 08:41:12 UTC$/m,
    /^how +tracked: a test asked for it$/m,
    /^chain +a <- b$/m,
    /^timings +freeze 12\.1 ms, copy 80 ms, total 1190 ms$/m,
    /^left out +sr0: it is a CD-ROM$/m,
    /^vda +incremental +1\.00 GiB +6\.00 MiB +7\.00 MiB +vda\.qcow2 +pending$/m,
    /^data .* data\.qcow2 +(ab){32}$/m,
  ]) {
    t.match(text, part);
  }
  t.equal(
    pointSummary(pointJson(POINT)),
    'web1: point 20261120T084112.123Z-5f3a, incremental (tracked), crash-consistent, 6.06 MiB copied, 7.25 MiB stored, 1.2 s\n',
  );
});

t.test('an inspection in words', async (t) => {
  const found: Inspection = {
    vm: { name: POINT.vm.name, uuid: POINT.vm.uuid, qemu: '7.2.22', state: 'running' },
    disks: [
      {
        name: 'vda',
        format: 'raw',
        image: '/images/vda.raw',
        sizeBytes: GiB,
        device: '/machine/peripheral/vda',
        bitmap: { state: 'lost', words: 'it is gone' },
        warnings: ['a raw image keeps no bitmap'],
      },
    ],
    left: [],
    next: { kind: 'full', how: 'bitmap-lost', why: 'the bitmap is lost' },
    warnings: [],
  };
  const text = inspectionText(found);
  t.match(text, /^vm +web1 \(.*\), running$/m);
  t.match(text, /^next backup +full \(bitmap-lost\): the bitmap is lost$/m);
  t.match(text, /^vda +a raw image keeps no bitmap$/m);
  t.match(text, /^vda +raw +1\.00 GiB +\/machine\/peripheral\/vda +it is gone +\/images\/vda\.raw$/m);
  t.match(inspectionText({ ...found, next: null }), /^next backup +name the vault/m);
});

t.test('the pace of a copy', async (t) => {
  const disk = (doneBytes: number) => ({ name: 'vda', doneBytes, totalBytes: 1000 * MiB });
  const table: [doneBytes: number, sinceBytes: number, ms: number, words: string][] = [
    [0, 0, 0, ''],
    [0, 0, 1000, ''],
    [MiB, 2 * MiB, 1000, ''],
    [100 * MiB, 0, 5000, '20.0 MiB/s, 45 s left'],
    [100 * MiB, 50 * MiB, 5000, '10.0 MiB/s, 1 min 30 s left'],
    [100 * MiB, 0, 1000_000, '102 KiB/s, 2 h 30 min left'],
    [1000 * MiB, 0, 5000, '200 MiB/s'],
  ];
  for (const [doneBytes, bytes, nowMs, words] of table) {
    t.equal(paceOf(disk(doneBytes), { ms: 0, bytes }, nowMs), words, words);
  }
});
