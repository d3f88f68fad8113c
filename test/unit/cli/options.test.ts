import t from 'tap';
import { countOf, folderOf, moreDiskPaths, moreDisks } from '../../../src/cli/options.ts';

t.test('a count is a whole number from 1 on', async (t) => {
  t.equal(countOf('1'), 1);
  t.equal(countOf('250'), 250);
  for (const text of ['0', '-1', '1.5', '', 'x', '1e3', ' 1', '9999999999']) {
    t.throws(() => countOf(text), { code: 'usage' }, text);
  }
});

t.test('paths become absolute, and an empty one is none', async (t) => {
  t.equal(folderOf('a/../b'), `${process.cwd()}/b`);
  t.throws(() => folderOf(''), { code: 'usage' });
});

t.test('disks add up', async (t) => {
  t.same(moreDisks('vdb', moreDisks('vda')), ['vda', 'vdb']);
  t.throws(() => moreDisks('../x'), { code: 'name-invalid' });
});

t.test('targets add up, and a path may hold what it likes', async (t) => {
  const targets = moreDiskPaths('vdb=/x=y,z', moreDiskPaths('vda=rel'));
  t.same(
    [...targets],
    [
      ['vda', `${process.cwd()}/rel`],
      ['vdb', '/x=y,z'],
    ],
  );
  const table: [text: string, code: string][] = [
    ['vda', 'usage'],
    ['=x', 'usage'],
    ['vdc=', 'usage'],
    ['vda=/again', 'usage'],
    ['a/b=x', 'name-invalid'],
  ];
  for (const [text, code] of table) t.throws(() => moreDiskPaths(text, targets), { code }, text);
});
