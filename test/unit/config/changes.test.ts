import t from 'tap';
import { describeChanges } from '../../../src/config/changes.ts';
import { parseConfig } from '../../../src/config/read-config.ts';

const BASE = `
vaults: { nas: { mount: { type: nfs, source: "nas:/x", options: "one" } } }
defaults: { schedule: "0 2 * * *", keep: { last: 3 } }
limits: { runs: 2 }
vms:
  a: { qmp: /run/a }
  b: { qmp: /run/b, schedule: "0 3 * * *" }
hooks: { onFailure: { webhook: "https://example.org/one" } }
`;

t.test('what a new configuration changes is told in words, inherited changes once', async (t) => {
  const table: [from: string, to: string, ...changes: string[]][] = [
    ['runs: 2', 'runs: 2'],
    ['runs: 2', 'runs: 3', 'limits.runs: 2, now 3', 'limits.perVault: 2, now 3'],
    ['"0 2 * * *"', '"0 4 * * *"', 'defaults.schedule: 0 2 * * *, now 0 4 * * *'],
    ['"0 3 * * *"', 'off', 'vms.b.schedule: 0 3 * * *, now none'],
    ['last: 3', 'last: 4, daily: 1', 'defaults.keep.last: 3, now 4', 'defaults.keep.daily: none, now 1'],
    ['  a: ', '  c: ', 'vms.a is gone', 'vms.c is new'],
    ['/run/a', '/run/aa', 'vms.a.qmp: /run/a, now /run/aa'],
    ['"one"', '"two"', 'vaults.nas.mount.options changed'],
    ['org/one', 'org/two', 'hooks.onFailure.0.webhook changed'],
    ['org/one" }', 'org/one" }, onSuccess: { command: [x] }', 'hooks.onSuccess.0 is new'],
    [
      'schedule: "0 2',
      'blackout: ["08:00-18:00"], schedule: "0 2',
      'defaults.blackout: none, now 08:00-18:00',
    ],
    ['limits:', 'discover: ["/run/*"]\nlimits:', 'discover: none, now /run/*'],
    ['limits:', 'metrics: { port: 9100 }\nlimits:', 'metrics: none, now {"port":9100}'],
  ];
  const before = parseConfig('c', BASE).config;
  for (const [from, to, ...changes] of table) {
    const after = parseConfig('c', BASE.replace(from, to)).config;
    t.same(describeChanges(before, after), changes, `${from} -> ${to}`);
  }
});
