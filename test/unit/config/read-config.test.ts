import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { inspect } from 'node:util';
import fc from 'fast-check';
import t from 'tap';
import { QmpvaultError } from '../../../src/base/errors.ts';
import { MiB } from '../../../src/base/units.ts';
import type { Config } from '../../../src/config/config.ts';
import type { Problem } from '../../../src/config/problems.ts';
import { parseConfig, readConfig } from '../../../src/config/read-config.ts';
import { damagedJson } from '../../helpers/damaged-json.ts';
import { tempDir } from '../../helpers/temp-dir.ts';

const SMALL = 'vaults: { nas: { path: /mnt/nas } }\n';

function configOf(text: string): Config {
  return parseConfig('c.yaml', text).config;
}

function problemsOf(text: string): Problem[] {
  try {
    parseConfig('c.yaml', text);
  } catch (error) {
    if (error instanceof QmpvaultError && error.code === 'config-invalid') {
      return error.details['problems'] as Problem[];
    }
    throw error;
  }
  return [];
}

t.test('the smallest configuration has all the rest decided, and cannot be changed', async (t) => {
  const config = configOf(`${SMALL}vms: { web1: { qmp: /run/web1.qmp } }`);
  t.match(config, {
    vaults: [{ name: 'nas', path: '/mnt/nas', mount: null }],
    limits: { runs: 2, perVault: 2, bandwidth: null },
    vms: [
      { name: 'web1', vault: 'nas', qmp: '/run/web1.qmp', schedule: null, fullEvery: 10, quiesce: 'auto' },
    ],
    rpc: { socket: '/run/qmpvault/rpc.sock', group: null },
    metrics: null,
  });
  t.throws(() => Object.assign(config.vms[0] ?? {}, { vault: 'other' }), TypeError);
  t.throws(() => Object.assign(config.vms[0]?.retries ?? {}, { attempts: 0 }), TypeError);
});

t.test('the example says all that can be said, and is right', async (t) => {
  const file = new URL('../../../docs/config.example.yaml', import.meta.url).pathname;
  const { config } = await readConfig(file);
  t.match(config, {
    vaults: [{ name: 'nas' }, { name: 'office', path: '/var/lib/qmpvault/mnt/office/backups' }],
    defaults: { schedule: '0 2 * * *', keep: { last: 7 }, jitterMs: 30 * 60_000 },
    vms: [
      { name: 'web1' },
      {
        name: 'db1',
        vault: 'office',
        quiesce: 'required',
        verify: { level: 'deep', boot: { line: 'login:' } },
      },
      { name: 'old', qmp: null },
    ],
  });
  const documented = readFileSync(new URL('../../../docs/configuration.md', import.meta.url), 'utf8');
  const keys = readFileSync(file, 'utf8').matchAll(/^\s*([a-z]\w*):/gim);
  const names = new Set(['nas', 'office', 'web1', 'db1', 'old', 'vda', ...RULES_IN_A_LINE]);
  for (const [, key = ''] of keys) {
    if (!names.has(key)) t.match(documented, `\`${key}\``, `docs/configuration.md explains ${key}`);
  }
});
const RULES_IN_A_LINE = ['last', 'hourly', 'daily', 'weekly', 'monthly', 'yearly'];

t.test('a VM has the defaults, but for what it says itself; sections are replaced as a whole', async (t) => {
  const config = configOf(`${SMALL}
defaults: { schedule: "@daily", keep: { last: 3, daily: 5 }, retries: { attempts: 2 }, jitter: 5m }
vms:
  a: { qmp: /run/a }
  b: { qmp: /run/b, schedule: off, keep: { weekly: 1 }, jitter: 0s }
  c: { disks: { vda: /images/c.qcow2 }, exclude: [vdb] }`);
  t.match(config.vms, [
    {
      schedule: '@daily',
      keep: { last: 3, daily: 5 },
      retries: { attempts: 2, firstMs: 60_000 },
      jitterMs: 300_000,
    },
    { schedule: null, keep: { weekly: 1 }, jitterMs: 0 },
    { schedule: '@daily', qmp: null, images: { vda: '/images/c.qcow2' }, exclude: ['vdb'] },
  ]);
  t.strictSame(config.vms[1]?.keep, { weekly: 1 });
});

t.test('each wrong thing is told with its place, and what is allowed', async (t) => {
  const table: [text: string, line: number, column: number, what: RegExp, allowed: RegExp][] = [
    ['scratch:\n  limits: 3', 2, 3, /^scratch\.limits: unknown key/, /^path, limit$/],
    ['scratch: { limit: 50 bananas }', 1, 19, /"50 bananas" is not a size/, /GiB/],
    ['limits: { bandwidth: 0 }', 1, 22, /0 is not a rate/, /200MiB\/s/],
    ['limits: { runs: two }', 1, 17, /"two" is not a count/, /whole number/],
    ['limits: { runs: 0 }', 1, 17, /0 is not a count/, /from 1 on/],
    ['limits: 4', 1, 9, /limits: not a section/, /runs/],
    ['defaults: { schedule: "61 * * * *" }', 1, 23, /is not a schedule/, /crontab/],
    ['defaults: { schedule: "0 0 30 2 *" }', 1, 23, /is not a schedule/, /come true/],
    ['defaults: { schedule: "* * * * * *" }', 1, 23, /is not a schedule/, /five fields/],
    ['defaults: { timeZone: Europe/Atlantis }', 1, 23, /is not a time zone/, /Europe\/Berlin/],
    ['defaults: { vault: nass }', 1, 20, /no vault is called "nass"/, /nas/],
    ['defaults: { jitter: 10 }', 1, 21, /10 is not a duration/, /15m/],
    ['defaults: { quiesce: maybe }', 1, 22, /"maybe" is not one of/, /auto, required, off/],
    ['defaults: { keep: {} }', 1, 19, /keeps nothing/, /last: 7/],
    ['defaults: { keep: { fortnightly: 1 } }', 1, 21, /fortnightly: unknown key/, /weekly/],
    ['defaults: { prune: { schedule: "@daily" } }', 1, 20, /what to keep/, /maxChain/],
    ['defaults: { verify: { level: quick } }', 1, 13, /schedule: is missing/, /crontab/],
    [
      'defaults: { verify: { schedule: off, boot: { line: "(" } } }',
      1,
      52,
      /not a regular expression/,
      /login/,
    ],
    ['defaults: { blackout: ["8-18"] }', 1, 24, /is not a window/, /08:00-18:00/],
    ['defaults: { blackout: ["someday 08:00-18:00"] }', 1, 24, /is not a window/, /mon-fri/],
    ['defaults: { blackout: "08:00-18:00" }', 1, 23, /not a list/, /list/],
    ['vms: { web1: {} }', 1, 8, /has no socket/, /qmp/],
    ['vms: { web1: }', 1, 8, /has no socket/, /qmp/],
    ['vms: { web1: 3 }', 1, 14, /not a section/, /qmp/],
    ['vms: { web1: { qmp: web1.qmp } }', 1, 21, /is not the path of a socket/, /begins with \//],
    [`vms: { web1: { qmp: /${'x'.repeat(107)} } }`, 1, 21, /is not the path of a socket/, /107 bytes/],
    ['vms: { ../x: { qmp: /run/x } }', 1, 8, /begins with a dot/, /name/],
    ['vms:\n  a: { qmp: /run/x }\n  b: { qmp: /run/x }', 3, 13, /stands at vms\.a\.qmp/, /its own/],
    ['vms:\n  a: { qmp: /run/x }\n  a: { qmp: /run/y }', 3, 3, /this key stands twice/, /once/],
    ['vms: { a: { qmp: /run/x, disks: { ../a: /x } } }', 1, 35, /begins with a dot/, /name/],
    ['discover: [ run/*.qmp ]', 1, 13, /is not an absolute path/, /begins with/],
    ['metrics: { port: 70000 }', 1, 18, /70000 is not a port/, /127\.0\.0\.1/],
    ['metrics: {}', 1, 10, /exactly one of its keys port and socket/, /or/],
    ['metrics: { port: 9000, socket: /run/m }', 1, 10, /exactly one/, /or/],
    ['hooks: { onFailure: { webhook: ftp://x } }', 1, 32, /this is not an address/, /https/],
    ['hooks: { onFailure: { command: [] } }', 1, 32, /no program/, /PROGRAM/],
    ['hooks: { onFailure: { command: mail me } }', 1, 32, /not a list/, /PROGRAM/],
    ['hooks: { onFailure: [{ timeout: 3s }] }', 1, 22, /exactly one of its keys command and webhook/, /or/],
    ['log: { level: loud }', 1, 15, /"loud" is not one of/, /debug/],
    ['colour: red', 1, 1, /^colour: unknown key/, /vaults/],
  ];
  for (const [text, line, column, what, allowed] of table) {
    const [problem, ...others] = problemsOf(`${text}\n${SMALL}`);
    t.match(problem, { file: 'c.yaml', line, column, what, allowed }, text);
    t.same(others, [], `nothing else in ${text}`);
  }
});

t.test('so are wrong vaults', async (t) => {
  const table: [text: string, ...whats: RegExp[]][] = [
    ['', /there is no vault/],
    ['vaults:', /there is no vault/],
    ['vaults: [ /mnt/nas ]', /not a section of names/],
    ['- 1', /not a section with keys/],
    ['vaults: { nas: {} }', /exactly one of its keys path and mount/],
    ['vaults: { nas: { path: mnt } }', /is not an absolute path/],
    ['vaults: { a: { path: /x }, b: { path: /x } }', /stands at vaults\.a\.path/],
    ['vaults: { nas: { mount: { source: x } } }', /mount\.type: is missing/],
    ['vaults: { nas: { mount: { type: ftp, source: x } } }', /"ftp" is not one of/],
    [
      'vaults: { nas: { mount: { type: nfs, source: x, folder: ../y } } }',
      /"\.\.\/y" is not a folder inside/,
    ],
    [
      'vaults: { a: { path: /a }, b: { path: /b } }\nvms: { web1: { qmp: /run/x } }\ndiscover: [ /run/* ]',
      /vms\.web1: no vault is named/,
      /discover: no vault is named/,
    ],
    ['vaults: { a: { path: /a ', /with a \}/, /with a \}/],
    ['vaults: { a: *b }', /alias/i],
    ['vaults:\n\ta: 1', /Tabs/],
  ];
  for (const [text, ...whats] of table) {
    t.match(
      problemsOf(text).map(({ what }) => what),
      whats,
      text,
    );
    t.equal(problemsOf(text).length, whats.length, text);
  }
});

t.test('all problems are told at once, in the order of the text', async (t) => {
  const problems = problemsOf(`
vaults: { nas: { path: mnt, mount: {} } }
scratch: { path: /s, limit: lots }
defaults: { vault: other, schedule: never }
vms:
  a: { qmp: relative, quiesce: yes, typo: 1 }
`);
  t.same(
    problems.map(({ line, what }) => `${line} ${what.split(':')[0]}`),
    [
      '2 vaults.nas',
      '2 vaults.nas.path',
      '2 vaults.nas.mount.type',
      '2 vaults.nas.mount.source',
      '3 scratch.limit',
      '4 defaults.vault',
      '4 defaults.schedule',
      '6 vms.a.qmp',
      '6 vms.a.quiesce',
      '6 vms.a.typo',
    ],
  );
});

t.test('an alias stands for what it names, and is right or wrong as that is', async (t) => {
  const config = configOf(`${SMALL}
defaults: { keep: &few { last: 2 } }
vms: { a: { qmp: /run/a, keep: *few } }`);
  t.strictSame(config.vms[0]?.keep, { last: 2 });
  const bomb = `a: &a [x,x,x,x,x,x,x,x,x]\n${'bcdefghi'
    .split('')
    .map((name, i) => `${name}: &${name} [${Array(9).fill(`*${'abcdefgh'[i]}`).join(',')}]`)
    .join('\n')}\n${SMALL}`;
  t.match(problemsOf(bomb)[0]?.what, /alias/i);
});

t.test('a secret is in no message, whatever is wrong around it', async (t) => {
  const mount = (options: string) =>
    `vaults: { nas: { mount: { type: cifs, source: //nas/x, options: ${options} } } }`;
  const texts = [
    mount('[hunter2]'),
    mount('{ password: hunter2 }'),
    mount('"username=u,password=hunter2'),
    mount('"password=hunter2\\q"'),
    mount('password=hunter2: x'),
    `${SMALL}hooks: { onFailure: { webhook: "hunter2://x" } }`,
    `${SMALL}hooks: { onFailure: { webhook: [ hunter2 ] } }`,
  ];
  for (const text of texts) {
    const problems = problemsOf(text);
    t.ok(problems.length > 0, text);
    t.notMatch(JSON.stringify(problems), /hunter2/, text);
  }
  const config = configOf(`${mount('"username=u,password=hunter2"')}
hooks: { onSuccess: { webhook: "https://example.org/hunter2" } }`);
  t.equal(config.vaults[0]?.mount?.options?.reveal(), 'username=u,password=hunter2');
  for (const shown of [
    JSON.stringify(config),
    inspect(config, { depth: 9, showHidden: true }),
    `${config.vaults[0]?.mount?.options}`,
  ]) {
    t.notMatch(shown, /hunter2/);
    t.match(shown, /\(secret\)/);
  }
});

t.test('a file that is missing, or too large to be one, is told like any other problem', async (t) => {
  const dir = tempDir(t);
  await t.rejects(readConfig(join(dir, 'none.yaml')), {
    code: 'config-invalid',
    details: { problems: [{ file: join(dir, 'none.yaml'), line: 1 }] },
  });
  writeFileSync(join(dir, 'huge.yaml'), '#'.repeat(4 * 1024 ** 2 + 1));
  await t.rejects(readConfig(join(dir, 'huge.yaml')), { code: 'config-invalid' });
});

t.test('whatever the text, it is a configuration or a list of what is wrong with it', async () => {
  const example = readFileSync(new URL('../../../docs/config.example.yaml', import.meta.url), 'utf8');
  const { source } = parseConfig('c.yaml', example);
  const good = source.value as Record<string, unknown>;
  const yaml = fc.stringMatching(/^[ \n:\-?{}[\],&*!|>%@#'"a~<0-9]*$/, { maxLength: 60 });
  const inserted = fc
    .tuple(fc.nat(example.length), fc.nat(30), fc.oneof(yaml, fc.string({ maxLength: 20 })))
    .map(([at, cut, put]) => example.slice(0, at) + put + example.slice(at + cut));
  const text = fc.oneof(
    { weight: 2, arbitrary: yaml },
    { weight: 4, arbitrary: inserted },
    { weight: 4, arbitrary: damagedJson(good) },
  );
  fc.assert(
    fc.property(text, (text) => {
      try {
        return typeof parseConfig('c.yaml', text).config.limits.runs === 'number';
      } catch (error) {
        const { code, details } = error as QmpvaultError;
        const problems = details?.['problems'] as Problem[] | undefined;
        return code === 'config-invalid' && (problems?.length ?? 0) > 0;
      }
    }),
    { numRuns: 60 },
  );
});

t.test(
  'aliases that would explode, and nesting without end, are refused in bounded time and memory',
  async (t) => {
    const levels = Array.from(
      { length: 12 },
      (_, i) => `x${i}: &x${i} [${`*x${i - 1},`.repeat(i === 0 ? 0 : 10)}0]`,
    );
    for (const text of [
      `${levels.join('\n')}\n`,
      '['.repeat(50_000),
      `${'a: {'.repeat(5_000)}`,
      '- '.repeat(5_000),
    ]) {
      const before = process.memoryUsage.rss();
      const began = performance.now();
      t.throws(() => parseConfig('c.yaml', text), { code: 'config-invalid' });
      t.ok(performance.now() - began < 5_000, 'in bounded time');
      t.ok(process.memoryUsage.rss() - before < 256 * MiB, 'and memory');
    }
  },
);
