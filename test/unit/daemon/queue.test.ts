import t from 'tap';
import type { VmSettings } from '../../../src/config/config.ts';
import { parseConfig } from '../../../src/config/read-config.ts';
import { admit } from '../../../src/daemon/queue.ts';
import type { RunRecord } from '../../../src/daemon/run-record.ts';
import { runOf } from '../../helpers/runs.ts';

/** A Monday, 10:00 in Berlin. */
const NOW = new Date('2026-11-23T09:00:00Z');
const QUIET = settings('');
const NIGHTS_ONLY = settings('blackout: ["08:00-18:00"]');

function settings(text: string): VmSettings {
  return parseConfig('c', `vaults: { nas: { path: /x } }\ndefaults: { timeZone: Europe/Berlin, ${text} }`)
    .config.defaults;
}

function ask(runs: RunRecord[], { limits = { runs: 2, perVault: 2 }, of = QUIET } = {}) {
  const { start, waiting, expired, again } = admit(runs, { limits, settingsOf: () => of, now: NOW });
  const names = new Map(runs.map((run, i) => [run.id, 'abcdef'[i] ?? '?']));
  return {
    start: start.map(({ id }) => names.get(id)).join(''),
    waiting: Object.fromEntries([...waiting].map(([id, why]) => [names.get(id), why])),
    expired: [...expired.keys()].map((id) => names.get(id)).join(''),
    again: again?.toISOString() ?? null,
  };
}

const running = (vm: string, facts: Partial<Omit<RunRecord, 'vm'>> = {}) =>
  runOf({ vm, state: 'running', ...facts });
const queued = (vm: string, facts: Partial<Omit<RunRecord, 'vm'>> = {}) => runOf({ vm, ...facts });

t.test(
  'runs begin in order until the limits are reached, and the others are told why they wait',
  async (t) => {
    const table: [what: string, runs: RunRecord[], start: string, waiting: object][] = [
      ['nothing', [], '', {}],
      ['room for both', [queued('a'), queued('b')], 'ab', {}],
      ['limit of the host', [running('a'), queued('b'), queued('c')], 'b', { c: /2 runs .* on this host/ }],
      [
        'cancelling ones count',
        [running('a', { state: 'cancelling' }), running('b'), queued('c')],
        '',
        { c: /host/ },
      ],
      [
        'one VM, one run',
        [running('a'), queued('a'), queued('b')],
        'c',
        { b: /the backup \w+ of a is not over/ },
      ],
      ['also among those that begin', [queued('a'), queued('a', { what: 'prune' })], 'a', { b: /backup/ }],
      ['of no VM', [running('a'), queued('x', { vm: null, vault: null } as never)], 'b', {}],
      [
        'who is asked for goes first',
        [queued('a', { cause: 'scheduled' }), running('b'), queued('c')],
        'c',
        { a: /host/ },
      ],
      [
        'a pause between attempts',
        [
          queued('a', {
            notBefore: '2026-11-23T09:05:00.000Z',
            error: { code: 'vault-away', message: 'away', details: {} },
          }),
        ],
        '',
        { a: /next attempt is at 2026-11-23T09:05.*: away/ },
      ],
      ['a pause that is over', [queued('a', { notBefore: NOW.toISOString() })], 'a', {}],
      ['a pause from another clock', [queued('a', { notBefore: '2036-01-01T00:00:00.000Z' })], 'a', {}],
    ];
    for (const [what, runs, start, waiting] of table) t.match(ask(runs), { start, waiting }, what);
  },
);

t.test('a vault has its own limit, and others go past those that wait for it', async (t) => {
  const runs = [running('a'), queued('b'), queued('c', { vault: 'other' }), queued('d', { vault: 'other' })];
  t.match(ask(runs, { limits: { runs: 4, perVault: 1 } }), {
    start: 'c',
    waiting: { b: /1 runs .* on the vault nas/, d: /vault other/ },
  });
});

t.test('in a blackout window nothing begins by itself, but what is asked for does', async (t) => {
  const runs = [queued('a', { cause: 'scheduled' }), queued('b'), queued('c', { cause: 'caught-up' })];
  t.match(ask(runs, { of: NIGHTS_ONLY }), {
    start: 'b',
    waiting: { a: /window 08:00-18:00 \(Europe\/Berlin\), until 2026-11-23T17:00/, c: /window/ },
    again: '2026-11-23T17:00:00.000Z',
  });
});

t.test('who was to wait for so long only waits no longer, wherever the clock has gone', async (t) => {
  const wish = (waitMs: number, facts: Partial<RunRecord> = {}) =>
    queued('a', { what: 'prune', params: { waitMs }, createdAt: '2026-11-23T08:59:00.000Z', ...facts });
  t.match(ask([running('a'), wish(60_000)]), { start: '', expired: 'b', waiting: {} });
  t.match(
    ask([running('a'), wish(90_000)]),
    { expired: '', waiting: { b: /not over/ }, again: '2026-11-23T09:00:30.000Z' },
    'asked again when its time is up',
  );
  t.match(ask([wish(60_000)]), { start: 'a', expired: '' }, 'what can begin now begins');
  t.match(
    ask([running('a'), wish(60_000, { attempts: 1 })]),
    { expired: '' },
    'what has begun before waits on',
  );
  t.match(
    ask([running('a'), wish(60_000, { createdAt: '2026-11-23T12:00:00.000Z' })]),
    { expired: '', again: '2026-11-23T09:01:00.000Z' },
    'a clock that was put back does not make it longer',
  );
});
