import t from 'tap';
import { addedVm } from '../../../src/config/added-vm.ts';
import { parseConfig } from '../../../src/config/read-config.ts';

const { config } = parseConfig(
  'c',
  'vaults: { nas: { path: /a }, usb: { path: /b } }\ndefaults: { vault: nas, schedule: "@daily", keep: { last: 2 } }',
);

t.test('a VM that is added has the defaults, but for what it says itself', async (t) => {
  t.match(addedVm(config, 'web1', { qmp: '/run/web1.qmp' }), {
    name: 'web1',
    vault: 'nas',
    schedule: '@daily',
    qmp: '/run/web1.qmp',
  });
  t.match(addedVm(config, 'web1', { qmp: '/run/x', vault: 'usb', prune: { schedule: '@weekly' } }), {
    vault: 'usb',
    prune: { schedule: '@weekly' },
    keep: { last: 2 },
  });
});

t.test('it is looked at as closely as one in the file', async (t) => {
  const table: [name: string, wish: unknown, ...problems: RegExp[]][] = [
    ['web1', {}, /^qmp: the VM has no socket/],
    ['web1', null, /^qmp: the VM has no socket/],
    ['web1', { qmp: 'relative' }, /^qmp: "relative" is not the path of a socket. Allowed/],
    ['../x', { qmp: '/run/x' }, /begins with a dot/],
    ['web1', { qmp: '/run/x', vault: 'tape', typo: 1 }, /typo: unknown key/, /no vault is called "tape"/],
    ['web1', [], /not a section/, /no socket/],
  ];
  for (const [name, wish, ...problems] of table) {
    t.throws(() => addedVm(config, name, wish), { code: 'usage', details: { vm: name, problems } });
  }
});
