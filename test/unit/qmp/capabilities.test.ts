import fc from 'fast-check';
import t from 'tap';
import { readCapabilities } from '../../../qmp/capabilities.ts';

const NOTHING = {
  copyBeforeWrite: false,
  snapshotAccess: false,
  cbwErrorPolicy: false,
  discardSource: false,
  blockdevBackup: false,
  backupTuning: false,
  bitmapPersistence: false,
  groupedCompletion: false,
  yank: false,
  blockdevReopen: false,
  blockExportAdd: false,
  nbdServer: false,
  ioUring: false,
};

function command(name: string, type: string): object {
  return { 'meta-type': 'command', name, 'arg-type': type, 'ret-type': '0' };
}

function object(name: string, members: string[], more: object = {}): object {
  return {
    'meta-type': 'object',
    name,
    members: members.map((member) => ({ name: member, type: 'str' })),
    ...more,
  };
}

t.test('commands, their members, and the members of one variant are told apart', async (t) => {
  const schema = [
    command('blockdev-add', '1'),
    object('1', ['driver', 'node-name'], {
      tag: 'driver',
      variants: [
        { case: 'copy-before-write', type: '2' },
        { case: 'file', type: '3' },
        { case: 'raw', type: '4' },
      ],
    }),
    object('2', ['target']),
    { 'meta-type': 'object', name: '3', members: [{ name: 'aio', type: '5' }] },
    object('4', ['on-cbw-error']),
    { 'meta-type': 'enum', name: '5', values: ['threads', 'io_uring'] },
    command('blockdev-backup', '6'),
    object('6', ['target', 'discard-source']),
    command('yank', '0'),
    object('0', []),
  ];
  t.same(readCapabilities(schema), {
    ...NOTHING,
    copyBeforeWrite: true,
    blockdevBackup: true,
    discardSource: true,
    ioUring: true,
    yank: true,
  });
});

t.test('an enum that has only the newer form of its values is read too', async (t) => {
  const schema = [
    command('blockdev-add', '1'),
    object('1', [], { variants: [{ case: 'file', type: '3' }] }),
    { 'meta-type': 'object', name: '3', members: [{ name: 'aio', type: '5' }] },
    { 'meta-type': 'enum', name: '5', members: [{ name: 'threads' }, { name: 'io_uring' }] },
  ];
  t.equal(readCapabilities(schema).ioUring, true);
});

t.test('a schema without anything has no capabilities', async (t) => {
  t.same(readCapabilities([]), NOTHING);
});

t.test('what is no list is a protocol error; no list makes it throw', async (t) => {
  for (const reply of [null, {}, 'x']) t.throws(() => readCapabilities(reply), { code: 'qmp-protocol' });
  const entity = fc.record({
    name: fc.constantFrom<unknown>('blockdev-add', 'transaction', '1', 1, null),
    'arg-type': fc.constantFrom<unknown>('1', null, {}),
    members: fc.jsonValue(),
    variants: fc.jsonValue(),
    values: fc.jsonValue(),
  });
  fc.assert(
    fc.property(fc.array(fc.oneof(entity, fc.jsonValue())), (schema) => {
      readCapabilities(schema);
    }),
    { numRuns: 200 },
  );
});
