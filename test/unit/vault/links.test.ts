import * as fc from 'fast-check';
import t from 'tap';
import { codeOf } from '../../../src/base/errors.ts';
import { backingLinkTo, checkBackingLink } from '../../../src/vault/links.ts';
import { point } from '../../helpers/vault-files.ts';

const check = (link: string, format: string | null = 'qcow2') =>
  checkBackingLink({ link, format, where: '/nas/web1/p2/vda.qcow2', point: point('p2') });

t.test('a link to a file in another point of the VM is read', async (t) => {
  t.same(check('../p1/vda.qcow2'), { point: 'p1', file: 'vda.qcow2' });
  t.same(check('../20261120T084112.123Z-5f3a/a disk.qcow2'), {
    point: '20261120T084112.123Z-5f3a',
    file: 'a disk.qcow2',
  });
  t.same(check(backingLinkTo(point('p1'), 'vda.qcow2')), { point: 'p1', file: 'vda.qcow2' });
});

t.test('every other link is refused', async (t) => {
  const refused = {
    empty: '',
    absolute: '/etc/shadow',
    'an absolute way back in': '/nas/web1/p1/vda.qcow2',
    'json:': 'json:{"driver":"file","filename":"/etc/shadow"}',
    'json: in the place of a point': '../json:{}/vda.qcow2',
    'nbd:': 'nbd:unix:/run/x.sock',
    'nbd+unix': 'nbd+unix:///vda?socket=/run/x.sock',
    'a protocol': 'https://example.org/p1/vda.qcow2',
    'file:': 'file:../p1/vda.qcow2',
    'fat:': 'fat:rw:/etc',
    'the same folder': 'vda.qcow2',
    'the same folder, said aloud': './vda.qcow2',
    'the same point': '../p2/vdb.qcow2',
    'one level up': '../vda.qcow2',
    'two levels up': '../../p1/vda.qcow2',
    'up in the middle': '../../vda.qcow2',
    'up behind a point': '../p1/../../etc/shadow',
    'up as the file': '../p1/..',
    nested: '../p1/deeper/vda.qcow2',
    'a folder': '../p1/',
    'a doubled slash': '..//p1/vda.qcow2',
    'no point': '..//vda.qcow2',
    staging: '../.staging-p1/vda.qcow2',
    'a hidden file': '../p1/.run.json',
    'the manifest': '../p1/manifest.json',
    readers: '../readers/x.json',
    backslash: '..\\p1\\vda.qcow2',
    'a backslash in a name': '../p1/..\\..\\x',
    'a NUL': '../p1/vda.qcow2\0.raw',
    'a line feed': '../p1/vda\n.qcow2',
    'an option of a tool': '../-p1/vda.qcow2',
  };
  for (const [what, link] of Object.entries(refused)) {
    t.throws(
      () => check(link),
      { code: 'link-refused', details: { path: '/nas/web1/p2/vda.qcow2', link } },
      what,
    );
  }
});

t.test(
  'without the format qcow2 a good link is refused too: QEMU would probe, or read a guest’s bytes as a header',
  async (t) => {
    for (const format of [null, '', 'raw', 'QCOW2', 'vmdk', 'copy-before-write']) {
      t.throws(() => check('../p1/vda.qcow2', format), { code: 'link-refused' }, String(format));
    }
  },
);

t.test('whatever is let through is exactly the link that we would have written', async () => {
  const pieces = fc.constantFrom(
    '..',
    '.',
    '/',
    'p1',
    'p2',
    'vda.qcow2',
    'json:',
    'nbd:',
    '\\',
    '\0',
    ':',
    '-',
    ' ',
    'é',
  );
  const links = fc.oneof(
    fc.string(),
    fc.array(pieces, { maxLength: 8 }).map((list) => list.join('')),
  );
  await fc.assert(
    fc.property(links, (link) => {
      try {
        const { point: to, file } = check(link);
        return backingLinkTo(to, file) === link && to !== 'p2';
      } catch (error) {
        return codeOf(error) === 'link-refused';
      }
    }),
    { numRuns: 1000 },
  );
});

t.test('a link is never written with a name that could not be read', async (t) => {
  t.throws(() => backingLinkTo(point('..'), 'vda.qcow2'), { code: 'name-invalid' });
  t.throws(() => backingLinkTo(point('p1'), '../x'), { code: 'name-invalid' });
});
