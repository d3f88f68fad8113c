import fc from 'fast-check';
import t from 'tap';
import type { QmpError } from '../../../qmp/errors.ts';
import { type Call, type Effect, IN_BAND_LIMIT, Session, type SessionState } from '../../../qmp/session.ts';

const VERSION = { qemu: { major: 7, minor: 2, micro: 22 }, package: 'Debian' };
const GREETING = { QMP: { version: VERSION, capabilities: ['oob'] } };
const EVENT = { event: 'STOP', data: {}, timestamp: { seconds: 12, microseconds: 345_000 } };

function call(command: string, { oob = false } = {}): Call {
  return { command, args: undefined, oob };
}

/** What was sent, without ids. */
function sent(effects: readonly Effect[]): string[] {
  return requests(effects).map((request) => request.execute ?? `oob:${request['exec-oob']}`);
}

function requests(effects: readonly Effect[]): { execute?: string; 'exec-oob'?: string; id: string }[] {
  return effects.flatMap((effect) => (effect.kind === 'send' ? [effect.value as never] : []));
}

function ids(effects: readonly Effect[]): string[] {
  return requests(effects).map(({ id }) => id);
}

/** Commands and what became of them: `query-status=ok`, `cont=qmp-closed`. */
function settled(effects: readonly Effect[]): string[] {
  return effects.flatMap((effect) =>
    effect.kind === 'settle'
      ? [`${effect.call.command}=${effect.outcome.ok ? 'ok' : effect.outcome.error.code}`]
      : [],
  );
}

function failure(effects: readonly Effect[]): QmpError | undefined {
  return effects.find((effect) => effect.kind === 'fail')?.error;
}

/** A session that has come as far as this state; `submitted` came right before `closed`. */
function sessionIn(state: SessionState): Session {
  const session = new Session();
  if (state === 'greeting') return session;
  const [id] = ids(session.received(GREETING));
  if (state === 'negotiating') return session;
  session.received({ return: {}, id });
  if (state === 'closed') session.ended(null);
  t.equal(session.state, state);
  return session;
}

t.test('the greeting is answered by negotiating oob, and the reply makes the session ready', async (t) => {
  const session = new Session();
  const states = [session.state];
  const greeted = session.received(GREETING);
  states.push(session.state);
  t.match(greeted, [
    { kind: 'greeted', oob: true, version: { major: 7, minor: 2, micro: 22, text: '7.2.22 (Debian)' } },
    { kind: 'send', value: { execute: 'qmp_capabilities', arguments: { enable: ['oob'] } } },
  ]);
  t.same(session.received({ return: {}, id: ids(greeted)[0] }), [{ kind: 'ready' }]);
  states.push(session.state);
  session.ended(null);
  states.push(session.state);
  t.same(states, ['greeting', 'negotiating', 'ready', 'closed']);
});

t.test('oob is not asked for where it is not offered', async (t) => {
  const session = new Session();
  const effects = session.received({ QMP: { version: VERSION } });
  t.match(effects, [{ kind: 'greeted', oob: false }, { value: { arguments: undefined } }]);
});

t.test('a refused negotiation is a protocol error', async (t) => {
  const session = new Session();
  const [id] = ids(session.received(GREETING));
  const effects = session.received({ error: { class: 'GenericError', desc: 'no' }, id });
  t.equal(failure(effects)?.code, 'qmp-protocol');
  t.equal(session.state, 'closed');
});

t.test('commands submitted early are sent when the session is ready', async (t) => {
  const session = new Session();
  t.same(session.submit(call('query-status')), []);
  const [id] = ids(session.received(GREETING));
  t.same(sent(session.received({ return: {}, id })), ['query-status']);
});

t.test('replies find their commands in whatever order they come', async (t) => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: IN_BAND_LIMIT }).chain((count) => {
        const indices = [...Array(count).keys()];
        return fc.shuffledSubarray(indices, { minLength: count, maxLength: count });
      }),
      (order) => {
        const session = sessionIn('ready');
        const calls = order.map((_, index) => call(`command-${index}`));
        const sentIds = calls.flatMap((it) => ids(session.submit(it)));
        for (const index of order) {
          const effects = session.received({ return: index, id: sentIds[index] });
          t.same(effects, [{ kind: 'settle', call: calls[index], outcome: { ok: true, value: index } }]);
        }
      },
    ),
    { numRuns: 50 },
  );
});

t.test('an error keeps class, description and command', async (t) => {
  const session = sessionIn('ready');
  const [id] = ids(session.submit(call('blockdev-del')));
  const [effect] = session.received({ error: { class: 'GenericError', desc: 'in use' }, id });
  t.match(effect, {
    outcome: {
      ok: false,
      error: {
        code: 'qmp-command',
        command: 'blockdev-del',
        errorClass: 'GenericError',
        description: 'in use',
      },
    },
  });
});

t.test('events are handed on as they come', async (t) => {
  t.same(sessionIn('ready').received(EVENT), [
    { kind: 'event', event: { name: 'STOP', data: {}, timeMs: 12_345 } },
  ]);
});

t.test('no more in-band commands are sent than leave QEMU reading; oob overtakes them', async (t) => {
  const session = sessionIn('ready');
  const first = ids(session.submit(call('c')));
  for (let count = 1; count < IN_BAND_LIMIT; count += 1) first.push(...ids(session.submit(call('c'))));
  t.equal(first.length, IN_BAND_LIMIT);
  t.same(session.submit(call('waits')), []);
  t.same(sent(session.submit(call('yank', { oob: true }))), ['oob:yank']);
  const effects = session.received({ return: {}, id: first[0] });
  t.same(settled(effects), ['c=ok']);
  t.same(sent(effects), ['waits']);
});

t.test('a command given up before it was sent never is', async (t) => {
  const session = sessionIn('ready');
  const first = [...Array(IN_BAND_LIMIT)].flatMap(() => ids(session.submit(call('c'))));
  const waiting = call('waits');
  session.submit(waiting);
  t.equal(session.giveUp(waiting), false, 'not sent');
  t.same(sent(session.received({ return: {}, id: first[0] })), []);
});

t.test('the late reply of a command given up is dropped, and until then it counts as queued', async (t) => {
  const session = sessionIn('ready');
  const late = call('late');
  const [id] = ids(session.submit(late));
  for (let count = 1; count < IN_BAND_LIMIT; count += 1) session.submit(call('c'));
  t.equal(session.giveUp(late), true, 'sent');
  t.same(session.submit(call('next')), []);
  const effects = session.received({ return: {}, id });
  t.same(settled(effects), []);
  t.same(sent(effects), ['next']);
});

t.test(
  'a reply to an id that was never sent, or was answered, or to none, is a protocol error',
  async (t) => {
    const strange = [
      (id: string) => ({ return: {}, id: `${id}0` }),
      (id: string) => ({ return: {}, id: [id] }),
      () => ({ return: {}, id: 1 }),
      () => ({ return: {} }),
      () => ({ error: { class: 'GenericError', desc: 'JSON parse error' } }),
    ];
    for (const reply of strange) {
      const session = sessionIn('ready');
      const [id = ''] = ids(session.submit(call('cont')));
      const effects = session.received(reply(id));
      t.same(settled(effects), ['cont=qmp-outcome-unknown']);
      t.equal(failure(effects)?.code, 'qmp-protocol');
      t.equal(session.state, 'closed');
    }

    const session = sessionIn('ready');
    const [id] = ids(session.submit(call('cont')));
    session.received({ return: {}, id });
    t.equal(failure(session.received({ return: {}, id }))?.code, 'qmp-protocol', 'a second reply');
  },
);

t.test(
  'what was meant for the previous client is dropped, before the greeting and while negotiating',
  async (t) => {
    const session = new Session();
    t.same(session.received({ return: 'of its last but one', id: 'theirs' }), []);
    t.same(session.received(EVENT), []);
    const [id] = ids(session.received(GREETING));
    t.same(session.received({ return: 'of its last command', id: 'theirs' }), []);
    t.same(session.received({ error: { class: 'GenericError', desc: 'theirs' } }), []);
    t.same(session.received({ return: {}, id }), [{ kind: 'ready' }]);
  },
);

t.test('two sessions never use the same id', async (t) => {
  const [a, b] = [sessionIn('ready'), sessionIn('ready')];
  t.not(ids(a.submit(call('c')))[0], ids(b.submit(call('c')))[0]);
});

t.test('what is no QMP message is a protocol error in every state but the last', async (t) => {
  const strange = [
    null,
    7,
    'text',
    [],
    {},
    { id: 'x' },
    { QMP: null },
    { QMP: { version: { qemu: { major: '7' } } } },
    { event: 7, timestamp: { seconds: 1, microseconds: 1 } },
    { event: 'STOP', data: [], timestamp: { seconds: 1, microseconds: 1 } },
    { event: 'STOP' },
    { event: 'STOP', timestamp: { seconds: '1' } },
    { error: 'no' },
    { error: { class: 'GenericError' } },
  ];
  for (const state of ['greeting', 'negotiating', 'ready'] as const) {
    for (const value of strange) {
      const session = sessionIn(state);
      const error = failure(session.received(value));
      t.match(error, { code: 'qmp-protocol', details: { state } });
      t.equal(session.state, 'closed');
    }
  }
  for (const value of strange) t.same(sessionIn('closed').received(value), []);
});

t.test('messages out of their state are protocol errors', async (t) => {
  t.equal(failure(sessionIn('negotiating').received(GREETING))?.code, 'qmp-protocol');
  t.equal(failure(sessionIn('ready').received(GREETING))?.code, 'qmp-protocol');
});

t.test(
  'when the connection is cut, what was sent is of unknown outcome and what was not did not happen',
  async (t) => {
    for (const state of ['greeting', 'negotiating'] as const) {
      const session = sessionIn(state);
      session.submit(call('early'));
      t.same(settled(session.ended(null)), ['early=qmp-closed']);
      t.equal(session.state, 'closed');
    }

    const session = sessionIn('ready');
    const calls = [...Array(IN_BAND_LIMIT + 1).keys()].map((index) => call(`c${index}`));
    for (const it of calls) session.submit(it);
    session.giveUp(calls[0] as Call);
    const effects = session.ended(null);
    t.same(settled(effects), [
      ...calls.slice(1, IN_BAND_LIMIT).map(({ command }) => `${command}=qmp-outcome-unknown`),
      `c${IN_BAND_LIMIT}=qmp-closed`,
    ]);
    t.same(session.ended(null), [], 'once');
    t.same(settled(session.submit(call('after'))), ['after=qmp-closed']);
  },
);

t.test('no sequence of values makes the session throw or leave its states', async (t) => {
  const value = fc.oneof(
    fc.constantFrom<unknown>(GREETING, EVENT, { return: {}, id: 'x' }, { return: {} }),
    fc.jsonValue(),
  );
  fc.assert(
    fc.property(fc.array(value, { maxLength: 8 }), (values) => {
      const session = new Session();
      for (const it of values) session.received(it);
      return ['greeting', 'negotiating', 'ready', 'closed'].includes(session.state);
    }),
    { numRuns: 200 },
  );
  t.pass();
});
