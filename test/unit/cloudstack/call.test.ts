import t from 'tap';
import { parentOf } from '../../../src/cloudstack/back-up.ts';
import { NotUnderstood, parseCall, pointFile } from '../../../src/cloudstack/call.ts';

const NAS = ['-t', 'nfs', '-s', 'nas:/export', '-m', ''];
const BACKUP = ['-o', 'backup', '-v', 'i-2-3-VM', ...NAS, '-p', 'i-2-3-VM/2026.11.20.08.41.12'];

t.test('a backup of a running VM, as the oldest caller asks for it', async (t) => {
  t.match(parseCall([...BACKUP, '-q', 'false', '-d', '']), {
    operation: 'backup',
    repository: { type: 'nfs', address: 'nas:/export', options: '', mountTimeoutMs: 60_000 },
    path: { vm: 'i-2-3-VM', point: '2026.11.20.08.41.12' },
    instance: 'i-2-3-VM',
    quiesce: false,
    images: [],
    mode: 'legacy-full',
    parentPaths: [],
  });
});

t.test('everything that a younger one may add', async (t) => {
  const more = ['-q', 'true', '-d', '/mnt/a/x,/mnt/a/y', '-M', 'incremental', '--bitmap-new', 'backup-2'];
  more.push('--bitmap-parent', 'backup-1', '--parent-paths', 'v/p/root.x.qcow2,v/p/datadisk.y.qcow2');
  more.push(
    '--quiesce-timeout',
    '5',
    '--mount-timeout',
    '9',
    '-b',
    '20',
    '--verify',
    '-c',
    '--full-every',
    '3',
  );
  t.match(parseCall([...BACKUP, ...more]), {
    quiesce: true,
    quiesceTimeoutMs: 5000,
    images: ['/mnt/a/x', '/mnt/a/y'],
    mode: 'incremental',
    fullEvery: 3,
    bitmapNew: 'backup-2',
    bitmapParent: 'backup-1',
    parentPaths: ['v/p/root.x.qcow2', 'v/p/datadisk.y.qcow2'],
    bandwidth: 20 * 1024 ** 2,
    repository: { mountTimeoutMs: 9000 },
  });
  t.match(parseCall([...BACKUP, '-w', '7']), { repository: { mountTimeoutMs: 7000 } });
  const single = ['-M', 'incremental', '--bitmap-new', 'n', '--bitmap-parent', 'o', '--parent-path', 'v/p/f'];
  t.match(parseCall([...BACKUP, ...single]), { parentPaths: ['v/p/f'] }, 'the older name for one path');
  t.match(parseCall(BACKUP, 'auto'), { mode: 'auto' }, 'the operator says what a call without a mode means');
});

t.test('an option takes whatever follows it, and the last one counts', async (t) => {
  const call = parseCall(['-o', 'stats', '-t', 'cifs', '-s', '//nas/x', '-m', '-o', '-s', '//nas/y']);
  t.match(call, { repository: { address: '//nas/y', options: '-o,nobrl' } });
});

t.test('on cifs there are no byte range locks', async (t) => {
  const options = (mount: string) =>
    parseCall(['-o', 'stats', '-t', 'cifs', '-s', '//nas/x', '-m', mount]).repository.options;
  t.equal(options(''), 'nobrl');
  t.equal(options('vers=3.0,password=x'), 'vers=3.0,password=x,nobrl');
  t.equal(options('nobrl,vers=3.0'), 'nobrl,vers=3.0');
  t.equal(parseCall(['-o', 'stats', ...NAS]).repository.options, '', 'elsewhere there are');
});

function thrownBy(argv: readonly string[]): unknown {
  try {
    return parseCall(argv);
  } catch (error) {
    return error;
  }
}

t.test('what is not understood is answered with the usage', async (t) => {
  for (const argv of [['--what'], [...BACKUP, '-x', '1'], ['-h'], [...NAS], ['-o', 'format', ...NAS]]) {
    t.ok(thrownBy(argv) instanceof NotUnderstood, argv.join(' '));
  }
});

t.test('a path that is none of a backup is refused: the original would remove what lies there', async (t) => {
  const paths = [
    '',
    '/',
    '/i-2-3-VM/x',
    'i-2-3-VM',
    'i-2-3-VM/',
    '..',
    '../i-2-3-VM/x',
    'a/../b',
    'a/b/c',
    'a/.x',
    './.',
  ];
  for (const path of paths) {
    t.throws(
      () => parseCall(['-o', 'delete', ...NAS, '-p', path]),
      { code: /^(usage|name-invalid)$/ },
      `'${path}'`,
    );
  }
  t.throws(() => parseCall(['-o', 'delete', ...NAS]), { code: 'usage' });
  t.match(parseCall(['-o', 'delete', ...NAS, '-p', './a//b/']), { path: { vm: 'a', point: 'b' } });
});

t.test('calls that make no sense are refused', async (t) => {
  const bad: [string[], RegExp][] = [
    [[...BACKUP, '-M', 'differential'], /Unknown mode: differential/],
    [
      [...BACKUP, '-M', 'incremental', '--bitmap-new', 'n', '--bitmap-parent', 'o'],
      /incremental mode requires/,
    ],
    [
      [...BACKUP, '-M', 'incremental', '--bitmap-new', 'n', '--parent-paths', 'v/p/f'],
      /incremental mode requires/,
    ],
    [[...BACKUP, '-v', ''], /-v/],
    [[...BACKUP, '-s', '-o'], /no address/],
    [[...BACKUP, '-t', 'path'], /absolute/],
    [[...BACKUP, '-t', 'nfs -o x'], /-t/],
    [[...BACKUP, '-b', 'fast'], /whole number/],
    [[...BACKUP, '-e', '/root/key'], /encryption/],
    [[...BACKUP, '-d'], /lacks its value/],
    [['-o', 'rebase', ...NAS, '--rebase-target', 'v/p/f'], /rebase requires/],
    [['-o', 'rebase', ...NAS, '--rebase-target', 'v/p/f', '--rebase-new-backing', 'w/p/f'], /two VMs/],
  ];
  for (const [argv, message] of bad)
    t.throws(() => parseCall(argv), { code: 'usage', message }, argv.join(' '));
});

t.test('the point to stand on is that of all the named files', async (t) => {
  const path = parseCall(BACKUP).operation === 'backup' ? { vm: 'v', point: 'q' } : null;
  const parent = (...parentPaths: string[]) => parentOf({ parentPaths, path: path as never });
  t.equal(parent('v/p/root.x.qcow2', 'v/p/datadisk.y.qcow2'), 'p');
  t.equal(parent('v/p/datadisk.y.qcow2', 'v/p/root.x.qcow2'), 'p', 'whatever their order');
  t.equal(parent('v/p/root.x.qcow2', 'v/o/datadisk.y.qcow2'), null, 'of two points');
  t.equal(parent('w/p/root.x.qcow2'), null, 'of another VM');
  t.equal(parent('/v/p/root.x.qcow2'), null);
  t.equal(parent('v/../p/root.x.qcow2'), null);
  t.throws(() => pointFile('v/p'), { code: 'usage' });
});
