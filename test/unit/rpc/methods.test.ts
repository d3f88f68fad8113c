import { test } from 'tap';
import { CODES, codeOf, messageOf } from '../../../src/base/errors.ts';
import { METHODS, type MethodName } from '../../../src/rpc/methods.ts';
import { parseParams } from '../../../src/rpc/params.ts';

test('parameters are read as they are meant', (t) => {
  const read = (method: MethodName, params: unknown) => parseParams(METHODS[method].params, params);
  const backup = { vm: 'web1', full: true, bandwidth: '20MiB/s', quiesce: 'required', pointId: 'p1' };
  t.same(read('backup.start', backup), { ...backup, bandwidth: 20 * 1024 ** 2 });
  t.same(read('run.list', {}), {});
  const vm = { vm: 'web1', qmp: '/run/web1.qmp', keep: { last: 3 } };
  t.same(read('vm.add', vm), vm, 'with whatever the configuration of a VM may say');
  const restore = { vm: 'web1', disks: { vda: '/dev/vg0/web1' }, format: 'raw', force: true };
  t.same(read('restore.start', restore), restore);
  t.end();
});

test('wrong parameters are told by the name of the member', (t) => {
  const cases: [MethodName, unknown, RegExp, string?][] = [
    ['backup.start', {}, /^vm: is missing$/],
    ['backup.start', { vm: 7 }, /^vm: .*expected string/],
    ['backup.start', { vm: 'a', ful: true }, /^parameters: unknown ful; there are vm, full, bandwidth/],
    ['backup.start', { vm: 'a', bandwidth: 0 }, /^bandwidth: /],
    ['backup.start', { vm: 'a', bandwidth: 'fast' }, /'fast' is no size/],
    ['backup.start', { vm: '../a' }, /VM name/, 'name-invalid'],
    ['backup.start', { vm: 'a', pointId: 'vm.json' }, /vm.json/, 'name-invalid'],
    ['backup.start', ['a'], /^parameters: .*expected object/],
    ['restore.start', { vm: 'a' }, /^to: where to\?/],
    ['restore.start', { vm: 'a', to: '/x', disks: { a: '/y' } }, /^to: where to\?/],
    ['restore.start', { vm: 'a', to: 'x' }, /^to: must be an absolute path/],
    ['restore.start', { vm: 'a', disks: { '../a': '/y' } }, /disk name/, 'name-invalid'],
    ['prune.start', { vm: 'a', keep: { fortnightly: 1 } }, /^keep\.?.*fortnightly|keep: .*fortnightly/],
    ['prune.start', { vm: 'a', keep: { last: 0 } }, /^keep\.last: /],
    ['daemon.status', { x: 1 }, /unknown x/],
  ];
  for (const [method, params, says, code = 'usage'] of cases) {
    t.test(`${method} ${JSON.stringify(params)}`, async (t) => {
      const error = await Promise.resolve()
        .then(() => parseParams(METHODS[method].params, params))
        .then(String, (error: unknown) => error);
      t.equal(codeOf(error), code);
      t.match(messageOf(error), says);
    });
  }
  t.end();
});

test('the answer to a hostile call stays small', (t) => {
  const many = Object.fromEntries(Array.from({ length: 10_000 }, (_, i) => [`${'x'.repeat(200)}${i}`, i]));
  try {
    parseParams(METHODS['backup.start'].params, { vm: 'a', ...many });
    t.fail('it was let pass');
  } catch (error) {
    t.equal(codeOf(error), 'usage');
    t.ok(messageOf(error).length < 2_000);
  }
  t.end();
});

test('no number of the table of errors stands for two of them', (t) => {
  const numbers = Object.values(CODES).map(([, number]) => number);
  t.equal(new Set(numbers).size, numbers.length);
  t.ok(numbers.every((n) => (n >= -32099 && n <= -32000) || (n >= -32700 && n <= -32600)));
  t.end();
});
