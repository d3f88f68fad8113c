import t from 'tap';
import { QmpError } from '../../../qmp/errors.ts';
import { EventListener } from '../../../qmp/event-listener.ts';
import type { QmpEvent } from '../../../qmp/message.ts';

function event(name: string, data: Record<string, unknown> = {}): QmpEvent {
  return { name, data, timeMs: 0 };
}

function listener(wanted: (event: QmpEvent) => boolean = () => true): EventListener {
  return new EventListener(wanted, () => {});
}

t.test('events are kept until they are taken, oldest first', async (t) => {
  const it = listener();
  it.push(event('A'));
  it.push(event('B'));
  it.push(event('C'));
  t.equal((await it.next()).name, 'A');
  t.same(
    it.take().map(({ name }) => name),
    ['B', 'C'],
  );
  t.same(it.take(), []);
});

t.test('only wanted events are kept', async (t) => {
  const it = listener(({ name }) => name === 'STOP');
  it.push(event('RESUME'));
  it.push(event('STOP'));
  t.same(it.take(), [event('STOP')]);
});

t.test('those who wait are served in their order', async (t) => {
  const it = listener();
  const waiting = [it.next(), it.next()];
  it.push(event('A'));
  it.push(event('B'));
  t.same(
    (await Promise.all(waiting)).map(({ name }) => name),
    ['A', 'B'],
  );
});

t.test('whoever gave up waiting takes no event away', async (t) => {
  const it = listener();
  await t.rejects(it.next({ timeoutMs: 1 }), { code: 'qmp-timeout' });
  const controller = new AbortController();
  const aborted = it.next({ signal: controller.signal });
  controller.abort('reason');
  it.push(event('A'));
  await t.rejects(aborted, { code: 'qmp-aborted', cause: 'reason' });
  await t.rejects(it.next({ signal: controller.signal }), { code: 'qmp-aborted' });
  t.same(it.take(), [event('A')]);
});

t.test('what nobody takes pushes the oldest out and is counted', async (t) => {
  const it = listener();
  for (let index = 0; index < 5000; index += 1) it.push(event('E', { index }));
  const kept = it.take();
  t.equal(kept.length + it.dropped, 5000);
  t.same(kept.at(-1), event('E', { index: 4999 }));
  t.same(kept.at(0), event('E', { index: it.dropped }));
});

t.test('after the connection is lost the events that came are still there, then its error', async (t) => {
  const it = listener();
  it.push(event('SHUTDOWN'));
  const lost = new QmpError('qmp-closed', 'lost');
  it.end(lost);
  it.end(null);
  t.equal((await it.next()).name, 'SHUTDOWN');
  await t.rejects(it.next(), lost);

  const waiting = listener();
  const next = waiting.next();
  waiting.end(lost);
  await t.rejects(next, lost);
});

t.test('iteration throws when the connection is lost', async (t) => {
  const it = listener();
  it.push(event('A'));
  it.end(new QmpError('qmp-protocol', 'broken'));
  const names: string[] = [];
  await t.rejects(
    (async () => {
      for await (const { name } of it) names.push(name);
    })(),
    { code: 'qmp-protocol' },
  );
  t.same(names, ['A']);
});

t.test('iteration ends when the listener is closed, and a closed listener hears nothing', async (t) => {
  let closed = 0;
  const it = new EventListener(
    () => true,
    () => {
      closed += 1;
    },
  );
  const names: string[] = [];
  const iterating = (async () => {
    for await (const { name } of it) names.push(name);
  })();
  it.push(event('A'));
  await new Promise(setImmediate);
  it.close();
  it.push(event('B'));
  await iterating;
  t.same(names, ['A']);
  t.same(it.take(), []);
  t.equal(closed, 1);
  await t.rejects(it.next(), { code: 'qmp-closed' });
});
